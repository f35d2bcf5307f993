"""Which detector, with which setting: what a recipe asks for and a bundle records."""

from typing import Literal, assert_never

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field

from bundle.detectors.detector import Detector
from bundle.detectors.knn import Knn
from bundle.detectors.mahalanobis import (
    Mahalanobis,
    RelativeMahalanobis,
    gaussians_from_arrays,
)
from bundle.errors import UsageError


class DetectorSpec(BaseModel):
    """A detector's name, its settings and the false-alarm rate it is to keep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["knn", "mahalanobis", "relative_mahalanobis"] = "knn"
    k: int = Field(default=1, ge=1)  # knn only
    alpha: float = Field(default=0.05, ge=1e-6, lt=1)

    def fit(
        self,
        embeddings: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"] | None = None,
    ) -> Detector:
        """Return the detector fitted on familiar embeddings.

        Raises:
            UsageError: they are too few, or labels are needed and missing.
        """
        self.require_possible(len(embeddings), labels is not None)
        match self.name:
            case "knn":
                return Knn.fit(embeddings, k=self.k)
            case "mahalanobis":
                return Mahalanobis.fit(embeddings, labels)
            case "relative_mahalanobis":
                assert labels is not None  # else refused above
                return RelativeMahalanobis.fit(embeddings, labels)
            case _:
                assert_never(self.name)

    def require_possible(self, bank: int, labelled: bool) -> None:
        """Raise `UsageError` if no such detector can be fitted on such a bank."""
        if self.name == "knn" and bank < self.k:
            raise UsageError(
                f"The knn detector with k = {self.k} needs a bank of at least {self.k} "
                f"images, got {bank}; lower k or add images."
            )
        if self.name == "relative_mahalanobis" and not labelled:
            raise UsageError(
                "The relative_mahalanobis detector compares classes and needs labels, "
                "got images without; sort them into class folders or use mahalanobis."
            )

    def load(self, arrays: dict[str, np.ndarray]) -> Detector:
        """Return the detector whose statistics were stored as `arrays`."""
        match self.name:
            case "knn":
                return Knn(bank=arrays["bank"], k=self.k)
            case "mahalanobis":
                return Mahalanobis(classes=gaussians_from_arrays("classes", arrays))
            case "relative_mahalanobis":
                return RelativeMahalanobis(
                    classes=gaussians_from_arrays("classes", arrays),
                    everything=gaussians_from_arrays("everything", arrays),
                )
            case _:
                assert_never(self.name)
