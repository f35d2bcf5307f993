"""The interface of every out-of-distribution detector: statistics, and a score."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from isogon.ood.probe import LinearProbe
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorSettings:
    """The settings of a detector; None: its default."""

    k: int | None = None  # the k-th neighbour (knn), or the number of them (nnguide)
    dim: int | None = None  # dimension of the principal subspace


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The familiar (in-distribution) embeddings that a detector is fitted on."""

    embeddings: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None  # the class of each; None: no classes
    shared_probe: LinearProbe | None = None  # already fitted on these

    @cached_property
    def probe(self) -> LinearProbe:
        """The linear probe of embeddings and labels, fitted at first use."""
        if self.shared_probe is not None:
            return self.shared_probe
        return LinearProbe.fit(self.embeddings, self.classes)

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The labels, for a detector that needs them."""
        assert self.labels is not None  # `Detector.needs_labels` was checked before
        return self.labels


class Detector(ABC):
    """A fitted detector whose **scores are larger when less familiar**.

    A subclass with a `name`, in a module of `isogon.ood`, is available to recipes and
    `isogon calibrate` under that name. The same score in torch is in
    `export.graph.scores`.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ()  # the `DetectorSettings` it uses

    @classmethod
    @abstractmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "Detector":
        """Return the detector fitted on familiar embeddings.

        Raises:
            UsageError: they are not suitable.
        """

    @classmethod
    @abstractmethod
    def from_stored(
        cls, stored: StoredStatistics, settings: DetectorSettings
    ) -> "Detector":
        """Return the detector from the stored `arrays`.

        Raises:
            BundleError: an array is missing or has another shape.
        """

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if it cannot be fitted on such a bank.

        Args:
            settings: of the detector.
            bank: number of embeddings.
            width: embedding dimension; None: not known yet.
            classes: number of classes; None: not known yet, or none.
        """
        return None

    @abstractmethod
    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return one score per embedding; larger means less familiar."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics, as stored in `reference.safetensors`."""
