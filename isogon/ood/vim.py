"""Residual and ViM: the distance from the principal subspace, alone and with the energy."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from isogon.errors import UsageError
from isogon.ood.detector import Bank, Detector, DetectorSettings
from isogon.ood.probe import LinearProbe, log_sum_exp
from isogon.ood.statistics import StoredStatistics


@dataclass(frozen=True, kw_only=True, slots=True)
class Residual(Detector):
    """|N^T (f - u)|, the part of f outside the principal subspace around u.

    N holds the eigenvectors of the second moment of f - u beyond the `dim` largest,
    u = -W^+ c is the linear probe's origin. Wang et al., "ViM", CVPR 2022,
    arXiv:2203.10807, as in OpenOOD v1.5; the score is the negative of its `conf`.
    Our extension: without labels, hence without probe, u is the mean, which makes
    this the reconstruction error of a principal component analysis.
    """

    name: ClassVar[str] = "residual"
    needs_labels: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("dim",)

    origin: Float[np.ndarray, " d"]
    complement: Float[np.ndarray, "d r"]  # N, orthonormal columns

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], probe: LinearProbe | None, *, dim: int
    ) -> "Residual":
        """Fit the subspace of `dim` directions in float64; dim must be below d."""
        data = embeddings.astype(np.float64)
        origin = data.mean(axis=0) if probe is None else probe.origin()
        shifted = data - origin
        _, directions = np.linalg.eigh(shifted.T @ shifted / len(data))
        return cls(origin=origin, complement=directions[:, : data.shape[1] - dim])

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "Residual":
        """Fit, with `dim` half the width by default."""
        probe = None if bank.labels is None else bank.probe
        dim = _dim(settings, bank.embeddings.shape[1])
        return cls.fit(bank.embeddings, probe, dim=dim)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if `dim` is not below the width and the bank's size."""
        _require_subspace(cls.name, settings, bank, width)

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the length of the part outside the subspace."""
        shifted = embeddings.astype(np.float64) - self.origin
        found: np.ndarray = np.linalg.norm(shifted @ self.complement, axis=1)
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return origin [d] and complement [d, r]."""
        return {
            "residual.origin": self.origin,
            "residual.complement": np.ascontiguousarray(self.complement),
        }

    @classmethod
    def from_stored(
        cls, stored: StoredStatistics, settings: DetectorSettings
    ) -> "Residual":
        """Return the detector from the stored `arrays`."""
        return cls(
            origin=stored.take("residual.origin", "d"),
            complement=stored.take("residual.complement", "d r"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Vim(Detector):
    """alpha |N^T (f - u)| - logsumexp(W f + c): the residual as one more logit.

    alpha makes the mean residual of the bank as large as its mean largest logit. Wang
    et al., "ViM", CVPR 2022, arXiv:2203.10807, as in OpenOOD v1.5; the score is the
    negative of its `conf`.
    """

    name: ClassVar[str] = "vim"
    reads: ClassVar[tuple[str, ...]] = ("dim",)

    probe: LinearProbe
    residual: Residual
    alpha: float

    @classmethod
    def fit(
        cls, embeddings: Float[np.ndarray, "n d"], probe: LinearProbe, *, dim: int
    ) -> "Vim":
        """Fit residual and alpha.

        Raises:
            UsageError: the bank does not vary outside the subspace.
        """
        residual = Residual.fit(embeddings, probe, dim=dim)
        lengths = residual.score(embeddings)
        # Below this the residual is the rounding of float32 embeddings.
        floor = np.finfo(np.float32).eps * np.linalg.norm(embeddings, axis=1).mean()
        if not lengths.mean() > floor:
            raise UsageError(
                f"The vim detector needs embeddings that vary in more than dim = {dim} "
                f"directions, got {len(embeddings)} that do not; lower dim or add images."
            )
        largest = probe.logits(embeddings).max(axis=1)
        alpha = float(largest.mean() / lengths.mean())
        return cls(probe=probe, residual=residual, alpha=alpha)

    @classmethod
    def from_bank(cls, bank: Bank, settings: DetectorSettings) -> "Vim":
        """Fit, with `dim` half the width by default."""
        dim = _dim(settings, bank.embeddings.shape[1])
        return cls.fit(bank.embeddings, bank.probe, dim=dim)

    @classmethod
    def require_possible(
        cls, settings: DetectorSettings, bank: int, width: int | None, classes: int | None
    ) -> None:
        """Raise `UsageError` if `dim` is not below the width and the bank's size."""
        _require_subspace(cls.name, settings, bank, width)

    def score(self, embeddings: Float[np.ndarray, "b d"]) -> Float[np.ndarray, " b"]:
        """Return the virtual logit minus the energy of the others."""
        energy = log_sum_exp(self.probe.logits(embeddings))
        found: np.ndarray = self.alpha * self.residual.score(embeddings) - energy
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the probe's and the residual's arrays, and alpha [1]."""
        alpha = {"vim.alpha": np.array([self.alpha])}
        return self.probe.arrays() | self.residual.arrays() | alpha

    @classmethod
    def from_stored(cls, stored: StoredStatistics, settings: DetectorSettings) -> "Vim":
        """Return the detector from the stored `arrays`."""
        return cls(
            probe=LinearProbe.from_stored(stored),
            residual=Residual.from_stored(stored, settings),
            alpha=float(stored.take("vim.alpha", "one")[0]),
        )


def _dim(settings: DetectorSettings, width: int) -> int:
    return settings.dim or width // 2


def _require_subspace(
    name: str, settings: DetectorSettings, bank: int, width: int | None
) -> None:
    if width is None:
        return
    dim = _dim(settings, width)
    if dim >= width:
        raise UsageError(
            f"The {name} detector measures the part outside a subspace and needs dim below "
            f"the embedding dimension, got dim = {dim} and {width} dimensions; lower dim, "
            f"or leave it out for half of them."
        )
    if bank <= dim:
        raise UsageError(
            f"The {name} detector with dim = {dim} needs a bank of more than {dim} images, "
            f"got {bank}; lower dim or add images."
        )
