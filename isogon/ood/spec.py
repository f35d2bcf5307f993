"""Which detector, with which setting: what a recipe asks for and a bundle records."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field

from isogon.errors import UsageError
from isogon.ood.detector import Detector
from isogon.ood.knn import Knn
from isogon.ood.logit import Energy, Gen, LogitDetector, MaxLogit, Msp
from isogon.ood.mahalanobis import Mahalanobis, RelativeMahalanobis
from isogon.ood.nnguide import NnGuide
from isogon.ood.probe import LinearProbe
from isogon.ood.she import She
from isogon.ood.stored import Stored
from isogon.ood.vim import Residual, Vim

DetectorName = Literal[
    "knn",
    "mahalanobis",
    "relative_mahalanobis",
    "residual",
    "vim",
    "msp",
    "max_logit",
    "energy",
    "gen",
    "she",
    "nnguide",
]
DETECTORS: tuple[DetectorName, ...] = get_args(DetectorName)

_WITHOUT_LABELS = ("knn", "mahalanobis", "residual")
_IN_SUBSPACE = ("residual", "vim")
_WITHIN_CLASSES = ("mahalanobis", "relative_mahalanobis")
_NEIGHBOURS = {"knn": 1, "nnguide": 10}
_READERS = {"k": tuple(_NEIGHBOURS), "dim": _IN_SUBSPACE}
_OF_LOGITS: dict[str, type[LogitDetector]] = {
    "msp": Msp,
    "max_logit": MaxLogit,
    "energy": Energy,
    "gen": Gen,
}


class DetectorSpec(BaseModel):
    """A detector's name, its settings and the false-alarm rate it is to keep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: DetectorName = Field(default="mahalanobis", description="which detector")
    k: int | None = Field(
        default=None,
        ge=1,
        description="which neighbour counts (knn, else 1), or how many (nnguide, else 10)",
    )
    dim: int | None = Field(
        default=None,
        ge=1,
        description="of the principal subspace (residual and vim), below the embedding's "
        "width; else half of it",
    )
    alpha: float = Field(
        default=0.05,
        ge=1e-6,
        lt=1,
        description="share of familiar images that may be flagged",
    )

    def fit(
        self,
        embeddings: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"] | None = None,
        *,
        probe: LinearProbe | None = None,
    ) -> Detector:
        """Return the detector fitted on familiar embeddings.

        Args:
            embeddings: of the bank, as they are deployed.
            labels: the class of each; None without classes.
            probe: the linear probe of these embeddings and labels, where several
                detectors share it; without it, one is fitted if the detector needs it.

        Raises:
            UsageError: they are too few, labels are needed and missing, or `dim` is
                not below the width.
        """
        self.require_bank(len(embeddings), labels, embeddings.shape[1])
        match self.name:
            case "knn":
                return Knn.fit(embeddings, k=self._neighbours)
            case "mahalanobis":
                return Mahalanobis.fit(embeddings, labels)
            case "residual" if labels is None:
                return Residual.fit(embeddings, None, dim=self._dim(embeddings.shape[1]))
        assert labels is not None  # else refused above
        if self.name == "relative_mahalanobis":
            return RelativeMahalanobis.fit(embeddings, labels)
        return self._with_probe(
            embeddings, labels, probe or LinearProbe.fit(embeddings, labels)
        )

    def require_read(self) -> None:
        """Raise `UsageError` if `k` or `dim` is set and this detector does not read it."""
        for setting, readers in _READERS.items():
            if getattr(self, setting) is not None and self.name not in readers:
                raise UsageError(
                    f"The {self.name} detector does not read {setting}, got {setting} = "
                    f"{getattr(self, setting)}; leave it out, or take a detector that "
                    f"does: {' or '.join(readers)}."
                )

    def require_bank(
        self, bank: int, labels: Int[np.ndarray, " n"] | None, width: int | None = None
    ) -> None:
        """Raise as `require_possible` does, with the bank's labels, if it has any."""
        classes = None if labels is None else len(np.unique(labels))
        self.require_possible(bank, labels is not None, width, classes=classes)

    def require_possible(
        self,
        bank: int,
        labelled: bool,
        width: int | None = None,
        *,
        classes: int | None = None,
    ) -> None:
        """Raise `UsageError` if no such detector can be fitted on such a bank.

        Args:
            bank: how many embeddings there are.
            labelled: whether their classes are known.
            width: of the embeddings, where it is known already.
            classes: how many of them the bank has, where it is known already.
        """
        if self.name in _NEIGHBOURS and bank < self._neighbours:
            raise UsageError(
                f"The {self.name} detector with k = {self._neighbours} needs a bank of at "
                f"least {self._neighbours} images, got {bank}; lower k or add images."
            )
        if not labelled and self.name not in _WITHOUT_LABELS:
            raise UsageError(
                f"The {self.name} detector compares classes and needs labels, got images "
                f"without; sort them into class folders, or use a detector that needs "
                f"none: {', '.join(_WITHOUT_LABELS)}."
            )
        if classes == bank and self.name in _WITHIN_CLASSES:
            raise UsageError(
                f"The {self.name} detector needs images that vary within a class, got a "
                f"bank of {bank} images, each a class of its own; give images of one "
                f"kind one label, leave the labels out, or use the knn detector."
            )
        if width is not None and self.name in _IN_SUBSPACE:
            dim = self._dim(width)
            if dim >= width:
                raise UsageError(
                    f"The {self.name} detector measures what lies outside a subspace and "
                    f"needs dim below the embedding's width, got dim = {dim} and width "
                    f"{width}; lower dim, or leave it out for half the width."
                )
            if bank <= dim:
                raise UsageError(
                    f"The {self.name} detector with dim = {dim} needs a bank of more than "
                    f"{dim} images, got {bank}; lower dim or add images."
                )

    def load(self, arrays: dict[str, np.ndarray]) -> Detector:
        """Return the detector whose statistics were stored as `arrays`.

        Raises:
            BundleError: an array is missing, or is not of the shape it must have.
        """
        stored = Stored(detector=self.name, arrays=arrays)
        match self.name:
            case "knn":
                return Knn.from_stored(stored, k=self._neighbours)
            case "mahalanobis":
                return Mahalanobis.from_stored(stored)
            case "relative_mahalanobis":
                return RelativeMahalanobis.from_stored(stored)
            case "residual":
                return Residual.from_stored(stored)
            case "vim":
                return Vim.from_stored(stored)
            case "she":
                return She.from_stored(stored)
            case "nnguide":
                return NnGuide.from_stored(stored, k=self._neighbours)
            case _:
                return _OF_LOGITS[self.name](probe=LinearProbe.from_stored(stored))

    def _with_probe(
        self,
        embeddings: Float[np.ndarray, "n d"],
        labels: Int[np.ndarray, " n"],
        probe: LinearProbe,
    ) -> Detector:
        match self.name:
            case "residual":
                return Residual.fit(embeddings, probe, dim=self._dim(embeddings.shape[1]))
            case "vim":
                return Vim.fit(embeddings, probe, dim=self._dim(embeddings.shape[1]))
            case "she":
                return She.fit(embeddings, labels, probe)
            case "nnguide":
                return NnGuide.fit(embeddings, probe, k=self._neighbours)
            case _:
                return _OF_LOGITS[self.name](probe=probe)

    @property
    def _neighbours(self) -> int:
        return self.k or _NEIGHBOURS[self.name]

    def _dim(self, width: int) -> int:
        return self.dim or width // 2


def applicable_detectors(bank: int, width: int, labelled: bool) -> dict[str, DetectorSpec]:
    """Return every detector that can be fitted on such a bank, by a name for tables.

    Args:
        bank: how many embeddings there are.
        width: of the embeddings.
        labelled: whether their classes are known.
    """
    specs = {"knn_k1": DetectorSpec(name="knn"), "knn_k50": DetectorSpec(name="knn", k=50)}
    specs |= {name: DetectorSpec(name=name) for name in DETECTORS if name != "knn"}
    return {
        name: spec for name, spec in specs.items() if _fits(spec, bank, width, labelled)
    }


def _fits(spec: DetectorSpec, bank: int, width: int, labelled: bool) -> bool:
    try:
        spec.require_possible(bank, labelled, width)
    except UsageError:
        return False
    return True
