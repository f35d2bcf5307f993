"""What every out-of-distribution detector is: statistics, and a score from them."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float


class Detector(ABC):
    """A fitted detector whose **scores are larger when less familiar**."""

    @abstractmethod
    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return one score per embedding; larger means less familiar."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics, as stored in `reference.safetensors`."""
