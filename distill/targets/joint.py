"""Several teachers as one: their balanced features side by side.

Students learn from cosines, so the teachers are balanced in cosines. Each teacher's tokens
are first scaled to unit length. The cosine of the joint tokens is then a weighted mean of
the teachers' own cosines, with the same weights for all images,

    cos(joint, joint') = sum_k w_k cos_k,    w_k ~ 1 / (1 - |mean_k|^2),

and the length of a teacher's features gives it no extra weight. The weights are those of
PHI-S on the unit vectors: 1 - |mean|^2 is their total variance and half the mean squared
distance of two images. So every teacher separates images equally, whatever its width, also
one whose cosines are all above 0.9. PHI-S also centres. We do not, because
objectives, detectors and indices here use uncentred cosines. What remains of PHI-S, a
rotation and one number, keeps each teacher's cosines exactly. With one teacher the joint
cosines are its own.

The rotation changes no cosine. It gives the channels of a teacher the same variance, for
objectives that compare channels (Proteus, VkD). The overall scale makes the mean variance
of a channel 1. Cells (patch tokens) are weighted as the pooled vectors are; other grids are
resampled to the first teacher's grid. If one teacher has no cells, the joint features have
none. Norms carry no information (ND reads them): all joint vectors have the same length.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from filelock import FileLock
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from distill.images.loading import ViewBatch
from distill.targets.phi_s import PhiS
from distill.targets.store import write_errors_explained
from distill.targets.targets import Targets
from distill.targets.teacher import Embedder, Teacher, Uncomputed
from isogon.bundle import TeacherCard
from isogon.errors import UsageError
from isogon.images.collection import Indices, spread
from isogon.networks import Features
from isogon.progress import Progress, say

_ESTIMATED_ON = 50_000  # images for the balance, at most
_BLOCK = 4096  # rows balanced at once

# In the bundle: for each teacher, by its number, the matrix [d_k, d_k] that its unit-norm
# embeddings are multiplied by, from the right and transposed.
BALANCE = "teacher/balance.safetensors"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """For each teacher the matrix that its unit-norm tokens are multiplied by: [d_k, d_k].

    It is a rotation times one number. The products, side by side, are the joint token.
    """

    maps: tuple[Float32[Tensor, "_ _"], ...]

    @classmethod
    def estimated(cls, pooled: Sequence[Float[np.ndarray, "n _"]]) -> "Balance":
        """Return the balance of teachers with these pooled vectors of the same images."""
        width = sum(vectors.shape[1] for vectors in pooled)
        maps = []
        for vectors in pooled:
            rows = vectors[spread(len(vectors), _ESTIMATED_ON)]
            found = PhiS.estimated(_unit(rows))
            # Unit variance per channel would let the widest teacher count most.
            share = math.sqrt(width / (len(pooled) * vectors.shape[1]))
            maps.append(torch.from_numpy(found.scale * share * found.rotation).float())
        return cls(maps=tuple(maps))

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Balance":
        """Return the balance that `arrays` describes."""
        return cls(
            maps=tuple(torch.from_numpy(arrays[str(k)].copy()) for k in range(len(arrays)))
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the maps by the teacher's number."""
        return {str(k): one.cpu().numpy() for k, one in enumerate(self.maps)}

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each teacher's cosine in the joint cosine."""
        squares = [float((one[0].double() ** 2).sum()) for one in self.maps]
        return tuple(square / sum(squares) for square in squares)

    def to(self, device: torch.device) -> "Balance":
        """Return the balance on `device`."""
        return Balance(maps=tuple(one.to(device) for one in self.maps))

    def __call__(self, tokens: Sequence[Float[Tensor, "*b _"]]) -> Float[Tensor, "*b d"]:
        """Return the joint tokens, in float32 also under autocast."""
        with torch.autocast(tokens[0].device.type, enabled=False):
            return torch.cat(
                [
                    F.normalize(each.float(), dim=-1) @ one.T
                    for each, one in zip(tokens, self.maps, strict=True)
                ],
                dim=-1,
            )

    def joint(self, several: Sequence[Features]) -> Features:
        """Return the joint features of the same images, on the first one's grid."""
        grid = several[0].grid
        if any(each.grid == (0, 0) for each in several):
            several, grid = [each.without_cells() for each in several], (0, 0)
        tokens = self([each.on_grid(grid).tokens for each in several])
        return Features(tokens=tokens, grid=grid)


class JointTargets(Targets):
    """The features of several teachers, read or computed side by side."""

    def __init__(self, several: Sequence[Targets], balance: Balance) -> None:
        self._several = several
        self._balance = balance
        self.width = sum(each.width for each in several)
        replayed = [each.replayed for each in several if each.replayed is not None]
        self.replayed = min(replayed, default=None)
        self.sizes = tuple(size for each in several for size in each.sizes)

    def place(self, device: torch.device) -> None:
        """Move the teachers that compute, and the balance, to `device`."""
        for each in self._several:
            each.place(device)
        self._balance = self._balance.to(device)

    @torch.no_grad()
    def features(self, batch: ViewBatch) -> Features:
        """Return the joint features of the views."""
        return self._balance.joint([each.features(batch) for each in self._several])

    def fault(self) -> UsageError | None:
        """Return the first fault of any teacher."""
        faults = [each.fault() for each in self._several]
        return next((fault for fault in faults if fault is not None), None)


class JointTeacher(Teacher):
    """Several teachers of the same images, used as one."""

    def __init__(self, teachers: Sequence[Teacher], cache: Path) -> None:
        """Join the teachers; `prepare` finds their balance.

        Args:
            teachers: two or more.
            cache: the folder of computed features.
        """
        self.teachers = tuple(teachers)
        self.card = joint_card([teacher.card for teacher in teachers])
        self._cache = cache
        self._balance: Balance | None = None

    @property
    def balance(self) -> Balance:
        """How the teachers are joined."""
        assert self._balance is not None, "a joint teacher is prepared before it is asked"
        return self._balance

    def prepare(
        self,
        indices: Indices,
        device: torch.device,
        progress: Progress,
        folder: Path | None = None,
        arrays: Arrays | None = None,
    ) -> None:
        """Estimate the balance on plain crops of training images, or load it.

        One process computes and the others wait. A balance in `folder` is never computed
        again: on another machine an eigenvector may have the opposite sign.
        """
        if arrays is not None:
            self._balance = Balance.from_arrays(arrays)
            return
        pooled = [each.pooled(indices, device, progress) for each in self.teachers]
        if folder is None:
            self._balance = Balance.estimated(pooled)
        else:
            self._balance = _kept_balance(folder, pooled)
        shares = ", ".join(
            f"{each.card.architecture} {weight:.2f}"
            for each, weight in zip(self.teachers, self._balance.weights, strict=True)
        )
        say(progress, f"Share of each teacher in the joint cosine: {shares}.")

    def uncomputed(
        self,
        indices: Indices,
        device: torch.device,
        *,
        plain: bool = False,
        crops: Indices | None = None,
    ) -> Uncomputed:
        """Return the sum over the teachers."""
        found = [
            each.uncomputed(indices, device, plain=plain, crops=crops)
            for each in self.teachers
        ]
        return Uncomputed(
            views=sum(each.views for each in found), size=sum(each.size for each in found)
        )

    @property
    def kept(self) -> dict[str, np.ndarray]:
        """The balance, by the teacher's number."""
        return self.balance.arrays()

    @property
    def parts(self) -> dict[str, slice]:
        """The channels of each teacher, by its name."""
        parts: dict[str, slice] = {}
        first = 0
        for number, teacher in enumerate(self.teachers, start=1):
            name = teacher.card.architecture
            name = f"{name} ({number})" if name in parts else name
            parts[name] = slice(first, first := first + teacher.card.width)
        return parts

    @property
    def embed(self) -> Embedder | None:
        """Embed with every teacher and join; None if one has no network."""
        embedders = [each.embed for each in self.teachers]
        found = [each for each in embedders if each is not None]
        if len(found) < len(embedders):
            return None

        def run(*pixels: Tensor) -> Float[Tensor, "b d"]:
            left = iter(pixels)
            balance = self.balance.to(pixels[0].device)
            return balance([each(*(next(left) for _ in each.crops)) for each in found])

        return Embedder(crops=tuple(crop for each in found for crop in each.crops), run=run)

    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return the joint features; each teacher has its own store."""
        several = [each.targets(indices, device, progress) for each in self.teachers]
        return JointTargets(several, self.balance)

    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Yield the joint features of the plain crops, batch by batch."""
        balance = self.balance.to(device)
        samples = [each.sample(indices, device) for each in self.teachers]
        for several in zip(*samples, strict=True):
            yield balance.joint(several)

    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the joint pooled features, in float16, mapped from a file in the cache.

        The file's name is a hash of the balance and of the features that are joined.

        Raises:
            UsageError: it cannot be written, or see `filled_store`.
        """
        pooled = [each.pooled(indices, device, progress) for each in self.teachers]
        digest = sha256(_digest(pooled).encode())
        for array in self.balance.arrays().values():
            digest.update(array.tobytes())
        path = self._cache / f"joint-{digest.hexdigest()[:20]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                with write_errors_explained(path):
                    self._write(path, pooled)
        kept: Float16[np.ndarray, "n d"] = np.load(path, mmap_mode="r")
        return np.asarray(kept)

    def _write(self, path: Path, pooled: Sequence[Float[np.ndarray, "n _"]]) -> None:
        pending = path.with_suffix(".pending.npy")
        count = len(pooled[0])
        joined = np.lib.format.open_memmap(
            pending, mode="w+", dtype=np.float16, shape=(count, self.card.width)
        )
        for first in range(0, count, _BLOCK):
            rows = slice(first, first + _BLOCK)
            blocks = [torch.from_numpy(each[rows].astype(np.float32)) for each in pooled]
            joined[rows] = self.balance(blocks).numpy()
        joined.flush()
        del joined
        pending.replace(path)


def joint_card(cards: Sequence[TeacherCard]) -> TeacherCard:
    """Return what a bundle says about several teachers; it names each of them."""
    return TeacherCard(
        architecture=" + ".join(card.architecture for card in cards),
        weights=" + ".join(card.weights for card in cards),
        licence=" + ".join(dict.fromkeys(card.licence for card in cards)),
        width=sum(card.width for card in cards),
        parameters=sum(card.parameters for card in cards),
        teachers=tuple(cards),
    )


def _kept_balance(folder: Path, pooled: Sequence[Float[np.ndarray, "n _"]]) -> Balance:
    """Return the balance from its file in `folder`; write the file first if there is none.

    The file's name is a hash of the features.
    """
    path = folder / f"balance-{_digest(pooled)[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            pending = path.with_suffix(".pending")
            arrays = Balance.estimated(pooled).arrays()
            pending.write_bytes(safetensors.numpy.save(arrays))
            pending.replace(path)
        return Balance.from_arrays(safetensors.numpy.load(path.read_bytes()))


def _digest(pooled: Sequence[Float[np.ndarray, "n _"]]) -> str:
    digest = sha256()
    for vectors in pooled:
        digest.update(f"{vectors.dtype} {vectors.shape}".encode())
        for first in range(0, len(vectors), _BLOCK):
            digest.update(np.ascontiguousarray(vectors[first : first + _BLOCK]).data)
    return digest.hexdigest()


def _unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return the unit vectors, in float64; a vector of zeros stays zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    directions: Float[np.ndarray, "n d"] = wide / np.where(norms > 0, norms, 1.0)
    return directions
