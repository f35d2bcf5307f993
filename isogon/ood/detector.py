"""What every out-of-distribution detector is: statistics, and a score from them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from isogon.ood.probe import LinearProbe
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What may be set of a detector; None: its default."""

    k: int | None = None  # which neighbour counts, or how many do
    dim: int | None = None  # of the principal subspace


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The familiar embeddings that a detector is fitted on."""

    embeddings: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None  # the class of each; None: no classes
    shared_probe: LinearProbe | None = None  # of these, fitted already

    @cached_property
    def probe(self) -> LinearProbe:
        """The linear probe of embeddings and labels, fitted when it is first needed."""
        if self.shared_probe is not None:
            return self.shared_probe
        return LinearProbe.fit(self.embeddings, self.classes)

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The labels of a detector that needs them."""
        assert self.labels is not None  # refused before: see `Detector.needs_labels`
        return self.labels


class Detector(ABC):
    """A fitted detector whose **scores are larger when less familiar**.

    A subclass with a `name`, in a module of `isogon.ood`, is a detector that recipes and
    `isogon calibrate` know by that name. Its twin in torch is in `export.graph.scores`.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ()  # which of `Settings` it reads

    @classmethod
    @abstractmethod
    def from_bank(cls, bank: Bank, settings: Settings) -> "Detector":
        """Return the detector fitted on familiar embeddings.

        Raises:
            UsageError: they do not suit.
        """

    @classmethod
    @abstractmethod
    def from_stored(cls, stored: StoredStatistics, settings: Settings) -> "Detector":
        """Return the detector that `arrays` stored.

        Raises:
            BundleError: an array is missing, or is not of the shape it must have.
        """

    @classmethod
    def require_possible(
        cls, settings: Settings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if it cannot be fitted on such a bank.

        Args:
            settings: of the detector.
            bank: how many embeddings there are.
            width: of the embeddings; None: not known yet.
            classes: how many the bank has; None: not known yet, or none.
        """
        return None

    @abstractmethod
    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return one score per embedding; larger means less familiar."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics, as stored in `reference.safetensors`."""
