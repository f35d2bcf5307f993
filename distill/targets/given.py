"""A teacher without a network: its embeddings are given, one for each image.

They may come from an API or from another framework.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Float32

from distill.images.loading import ViewBatch
from distill.targets.targets import Targets
from distill.targets.teacher import Teacher, Uncomputed
from isogon.bundle import TeacherCard
from isogon.errors import UsageError
from isogon.images import Images
from isogon.images.collection import Indices
from isogon.networks import Features
from isogon.progress import Progress

_CHECKED = 65_536  # rows checked at once
_BATCH = 64  # rows of a batch
_NAMED = 5  # images that a message names


class GivenTargets(Targets):
    """One embedding per image.

    A known limit: every view of an image has the embedding of the whole image, also a small
    crop that shows little of it. Keep `scale` high.
    """

    def __init__(self, embeddings: Float[np.ndarray, "images d"]) -> None:
        self._embeddings = embeddings
        self.width = embeddings.shape[1]

    def place(self, device: torch.device) -> None:
        """Do nothing: there is no network to move."""

    def features(self, batch: ViewBatch) -> Features:
        """Return the stored embeddings of the images."""
        rows = self._embeddings[batch.indices.numpy()].astype(np.float32)
        tokens = torch.from_numpy(rows)[:, None].to(batch.pixels.device)
        return Features(tokens=tokens, grid=(0, 0))


class GivenTeacher(Teacher):
    """A teacher whose embeddings are given, one for each image."""

    def __init__(
        self, embeddings: Float[np.ndarray, "images d"], card: TeacherCard
    ) -> None:
        self._embeddings = embeddings
        self.card = card

    @property
    def embed(self) -> None:
        """None: other images than these cannot be embedded."""
        return None

    def targets(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Targets:
        """Return the embeddings, the same for every view of an image."""
        return GivenTargets(self._embeddings)

    def sample(self, indices: Indices, device: torch.device) -> Iterator[Features]:
        """Yield the embeddings, batch by batch."""
        yield from in_batches(self._embeddings, indices, device)

    def pooled(
        self, indices: Indices, device: torch.device, progress: Progress
    ) -> Float[np.ndarray, "n d"]:
        """Return the embeddings."""
        rows: Float[np.ndarray, "n d"] = self._embeddings[indices]
        return rows

    def uncomputed(
        self,
        indices: Indices,
        device: torch.device,
        *,
        plain: bool = False,
        crops: Indices | None = None,
    ) -> Uncomputed:
        """Nothing has to be computed: the embeddings are given."""
        return Uncomputed(views=0, size=0)


def in_batches(
    embeddings: Float[np.ndarray, "images d"], indices: Indices, device: torch.device
) -> Iterator[Features]:
    """Yield these rows as float32 features of one token, batch by batch."""
    for first in range(0, len(indices), _BATCH):
        rows = embeddings[indices[first : first + _BATCH]].astype(np.float32)
        yield Features(tokens=torch.from_numpy(rows)[:, None].to(device), grid=(0, 0))


def given_embeddings(path: Path, images: Images) -> Float[np.ndarray, "images d"]:
    """Return the embeddings in `path` by the images' index.

    An .npy file is memory-mapped.

    Raises:
        UsageError: no file of embeddings, images without an embedding, or embeddings that
            are zero or not finite.
    """
    if not path.is_file():
        raise UsageError(f"There are no embeddings at {path}; see `path` in [teacher].")
    readers = {".npy": _from_npy, ".parquet": _from_parquet}
    if path.suffix not in readers:
        raise UsageError(
            f"Expected embeddings in a file ending in {' or '.join(readers)}, got {path}."
        )
    embeddings = readers[path.suffix](path, images)
    _require_directions(embeddings, images.names, path)
    return embeddings


def _from_npy(path: Path, images: Images) -> Float[np.ndarray, "images d"]:
    try:
        embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} is not an .npy file of numbers: {error}. Write it with `numpy.save`."
        ) from error
    expected = f"Expected {path} to hold float embeddings [{len(images)}, d]"
    if embeddings.dtype.kind != "f" or embeddings.ndim != 2 or not embeddings.shape[1]:
        raise UsageError(f"{expected}, got {embeddings.dtype} {list(embeddings.shape)}.")
    if len(embeddings) != len(images):
        raise UsageError(
            f"{expected}, a row for each image of {images.where} in its order, "
            f"got {len(embeddings)} rows. With a .parquet file, rows are found by name."
        )
    return np.asarray(embeddings)


def _from_parquet(path: Path, images: Images) -> Float32[np.ndarray, "images d"]:
    try:
        columns = pq.read_schema(path).names
        key = next((name for name in ("name", "path") if name in columns), None)
        if key is None or "embedding" not in columns:
            raise UsageError(
                f"Expected {path} to have the columns `name` (or `path`) and "
                f"`embedding`, got {', '.join(columns)}."
            )
        table = pq.read_table(path, columns=[key, "embedding"])
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as Parquet: {error}.") from error
    names = [str(name) for name in table[key].to_pylist()]  # they may be numbers
    rows = _rows_by_name(names, images, path)
    return _matrix(table["embedding"].take(pa.array(rows)), path)


def _rows_by_name(names: Sequence[str], images: Images, path: Path) -> Indices:
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) < len(names):
        twice = [name for row, name in enumerate(names) if row_of[name] != row]
        raise UsageError(f"{path} has more than one embedding for {_listed(twice)}.")
    missing = [name for name in images.names if name not in row_of]
    if missing:
        raise UsageError(
            f"{path} has no embedding for {len(missing):,} of {len(images):,} images: "
            f"{_listed(missing)}. Its own names are for example {_listed(names)}; they "
            f"must be those of the images, relative to {images.where}."
        )
    return np.array([row_of[name] for name in images.names])


def _matrix(column: pa.ChunkedArray, path: Path) -> Float32[np.ndarray, "images d"]:
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)) or not pa.types.is_floating(
        kind.value_type
    ):
        raise UsageError(
            f"Expected `embedding` in {path} to be lists of floats, got {kind}."
        )
    lengths = pc.list_value_length(column)
    widths = pc.unique(lengths).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise UsageError(
            f"Expected embeddings of one length in {path}, got lengths {widths[:_NAMED]}."
        )
    values = pc.list_flatten(column).cast(pa.float32())
    matrix: Float32[np.ndarray, "images d"] = values.to_numpy().reshape(-1, widths[0])
    return matrix


def _require_directions(
    embeddings: Float[np.ndarray, "images d"], names: Sequence[str], path: Path
) -> None:
    """Refuse embeddings with NaN or infinity, and zeros, which have no direction."""
    faulty: list[str] = []
    for first in range(0, len(embeddings), _CHECKED):
        rows = embeddings[first : first + _CHECKED]
        good = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
        faulty += [names[first + int(place)] for place in np.flatnonzero(~good)]
    if faulty:
        raise UsageError(
            f"{path} has embeddings that are zero or not finite, for {len(faulty):,} of "
            f"{len(names):,} images: {_listed(faulty)}. Compute these again, or remove "
            f"the images."
        )


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
