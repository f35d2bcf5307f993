"""The detector and its settings, as recipes and bundles specify them."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field

from isogon.errors import UsageError
from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.probe import LinearProbe
from isogon.ood.statistics import StoredStatistics


def _named_detectors() -> Iterator[type[Detector]]:
    """Yield each named detector class in the modules of this package."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if f"{__package__}.{found.name}" == __name__:
            continue
        module = import_module(f"{__package__}.{found.name}")
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, Detector):
                if one.__module__ == module.__name__ and "name" in vars(one):
                    yield one


_BY_NAME = {found.name: found for found in _named_detectors()}
DETECTORS = tuple(_BY_NAME)


def detector_class(name: str) -> type[Detector]:
    """Return the class of the detector of this name.

    Raises:
        UsageError: this version of Isogon has no such detector.
    """
    if name not in _BY_NAME:
        raise UsageError(
            f"This version of Isogon has no detector `{name}`; it has "
            f"{', '.join(DETECTORS)}. A bundle with another detector can be inspected, and "
            f"its exported files can be run. To fit or export it, install the version that "
            f"made it, or choose a detector with `isogon calibrate`."
        )
    return _BY_NAME[name]


class DetectorSpec(BaseModel):
    """A detector's name, its settings and its false-alarm rate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Any name, so that bundles of other versions, with other detectors, can be read.
    name: str = Field(
        default="mahalanobis", description="which detector", examples=list(DETECTORS)
    )
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
            probe: the linear probe of these embeddings and labels, if several detectors
                share it; None: one is fitted if the detector needs it.

        Raises:
            UsageError: there are too few embeddings, labels are needed and missing, or
                `dim` is not below the width.
        """
        self.require_bank(len(embeddings), labels, embeddings.shape[1])
        bank = Bank(embeddings=embeddings, labels=labels, shared_probe=probe)
        return detector_class(self.name).from_bank(bank, self._settings)

    def require_read(self) -> None:
        """Raise `UsageError` if `k` or `dim` is set and this detector does not use it."""
        for setting in ("k", "dim"):
            if getattr(self, setting) is None:
                continue
            if setting not in detector_class(self.name).reads:
                readers = [name for name, one in _BY_NAME.items() if setting in one.reads]
                raise UsageError(
                    f"The {self.name} detector does not use {setting}, got {setting} = "
                    f"{getattr(self, setting)}; leave it out, or choose a detector that "
                    f"does: {' or '.join(readers)}."
                )

    def require_bank(
        self, bank: int, labels: Int[np.ndarray, " n"] | None, width: int | None = None
    ) -> None:
        """Call `require_possible` with the number of classes of the labels."""
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
            bank: number of embeddings.
            labelled: whether their classes are known.
            width: embedding dimension; None: not known yet.
            classes: number of classes; None: not known yet.
        """
        found = detector_class(self.name)
        if not labelled and found.needs_labels:
            others = [name for name, one in _BY_NAME.items() if not one.needs_labels]
            raise UsageError(
                f"The {self.name} detector compares classes and needs labels, got images "
                f"without labels; sort them into class folders, or use a detector that "
                f"needs none: {', '.join(others)}."
            )
        found.require_possible(self._settings, bank, width, classes)

    def load(self, arrays: dict[str, np.ndarray]) -> Detector:
        """Return the detector whose statistics were stored as `arrays`.

        Raises:
            BundleError: an array is missing or has another shape.
            UsageError: this version of Isogon has no such detector.
        """
        stored = StoredStatistics(detector=self.name, arrays=arrays)
        return detector_class(self.name).from_stored(stored, self._settings)

    @property
    def _settings(self) -> DetectorSettings:
        return DetectorSettings(k=self.k, dim=self.dim)


def applicable_detectors(bank: int, width: int, labelled: bool) -> dict[str, DetectorSpec]:
    """Return every detector that can be fitted on such a bank, by its name in tables.

    Args:
        bank: number of embeddings.
        width: embedding dimension.
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
