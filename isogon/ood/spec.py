"""Which detector, with which setting: what a recipe asks for and a bundle records."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field

from isogon.errors import UsageError
from isogon.ood.detector import Bank, Detector, Settings
from isogon.ood.probe import LinearProbe
from isogon.ood.statistics import StoredStatistics


def _named_detectors() -> Iterator[type[Detector]]:
    """Yield each class with a name of its own, of the modules beside this one."""
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
        UsageError: this version of Isogon has none.
    """
    if name not in _BY_NAME:
        raise UsageError(
            f"This version of Isogon has no detector `{name}`; it has "
            f"{', '.join(DETECTORS)}. A bundle with another can be inspected, and what is "
            f"exported in it can be run; to fit or export it, install the version that "
            f"made it, or choose a detector with `isogon calibrate`."
        )
    return _BY_NAME[name]


class DetectorSpec(BaseModel):
    """A detector's name, its settings and the false-alarm rate it is to keep."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Any name: a bundle of another version, with a detector of its own, can be read.
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
            probe: the linear probe of these embeddings and labels, where several
                detectors share it; without it, one is fitted if the detector needs it.

        Raises:
            UsageError: they are too few, labels are needed and missing, or `dim` is
                not below the width.
        """
        self.require_bank(len(embeddings), labels, embeddings.shape[1])
        bank = Bank(embeddings=embeddings, labels=labels, shared_probe=probe)
        return detector_class(self.name).from_bank(bank, self._settings)

    def require_read(self) -> None:
        """Raise `UsageError` if `k` or `dim` is set and this detector does not read it."""
        for setting in ("k", "dim"):
            if getattr(self, setting) is None:
                continue
            if setting not in detector_class(self.name).reads:
                readers = [name for name, one in _BY_NAME.items() if setting in one.reads]
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
        found = detector_class(self.name)
        if not labelled and found.needs_labels:
            others = [name for name, one in _BY_NAME.items() if not one.needs_labels]
            raise UsageError(
                f"The {self.name} detector compares classes and needs labels, got images "
                f"without; sort them into class folders, or use a detector that needs "
                f"none: {', '.join(others)}."
            )
        found.require_possible(self._settings, bank, width, classes)

    def load(self, arrays: dict[str, np.ndarray]) -> Detector:
        """Return the detector whose statistics were stored as `arrays`.

        Raises:
            BundleError: an array is missing, or is not of the shape it must have.
            UsageError: this version of Isogon has no such detector.
        """
        stored = StoredStatistics(detector=self.name, arrays=arrays)
        return detector_class(self.name).from_stored(stored, self._settings)

    @property
    def _settings(self) -> Settings:
        return Settings(k=self.k, dim=self.dim)


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
