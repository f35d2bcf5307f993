"""A teacher's features on disk: computed row by row, continued after a kill, read by image.

A row is one view of one image. A store is a folder, named by the hash of everything that
its features depend on (see `store_key.py`): `store.json` describes it, `features.npy` holds
the rows in float16, and `rows.json` says how many of them are safely on disk.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float, Float16, Int
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from distill.targets.finite import require_finite_features
from isogon.bundle import TeacherCard
from isogon.errors import UsageError
from isogon.progress import Progress, say
from isogon.runtimes.memory import in_bytes

FEATURES = "features.npy"
RECORD = "store.json"
_DONE = "rows.json"  # how many rows are synced to disk
_LOCK = ".lock"

# What the features depend on, by name. The hash of all of it is the key of their store.
StoreParts = dict[str, JsonValue]


class StoreRecord(BaseModel):
    """`store.json`: what a store holds and what it was computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    parts: StoreParts
    shape: tuple[int, int, int, int]  # images, views, tokens, width
    dtype: Literal["float16"] = "float16"
    grid: tuple[int, int]  # (0, 0) for embeddings alone
    teacher: TeacherCard

    @property
    def key(self) -> str:
        """SHA-256 (hex) of the parts."""
        return sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The name of the store's folder."""
        return self.key[:20]

    @property
    def row_bytes(self) -> int:
        """The size of one view's features."""
        return self.shape[2] * self.shape[3] * 2

    @property
    def rows(self) -> int:
        """How many views there are."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSource:
    """Where the rows come from: view after view of image after image."""

    # From a row's number to the tokens of that row and all later ones, in batches.
    batches: Callable[[int], Iterator[Float[Tensor, "b n d"]]]
    image: Callable[[int], str]  # the name of a row's image, for messages


class FeatureStore:
    """A complete store, memory-mapped."""

    def __init__(self, folder: Path, record: StoreRecord) -> None:
        """Open the store in `folder`.

        Raises:
            UsageError: the file does not have the shape and type that the record says.
        """
        self.folder = folder
        self.record = record
        try:
            mapped = np.load(folder / FEATURES, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise _damaged(folder, str(error)) from error
        if mapped.shape != record.shape or mapped.dtype != np.float16:
            raise _damaged(folder, f"it holds {mapped.dtype} {list(mapped.shape)}")
        self.values: Float16[np.ndarray, "images views n d"] = np.asarray(mapped)

    def read(
        self,
        images: Int[np.ndarray, " b"],
        views: Int[np.ndarray, " b"],
        *,
        pinned: bool = False,
    ) -> Float16[Tensor, "b n d"]:
        """Return a copy of these rows, in page-locked memory if `pinned`.

        256 rows of 257 x 384 values (51 MB) take 4 ms from the page cache.

        Raises:
            IndexError: the store does not have this image or this view.
        """
        count, per_image, tokens, width = self.record.shape
        if not (_within(images, count) and _within(views, per_image)):
            raise IndexError(f"the store has {count} images with {per_image} views each")
        rows = torch.empty(
            (len(images), tokens, width), dtype=torch.float16, pin_memory=pinned
        )
        np.take(
            self.values.reshape(-1, tokens, width),
            images * per_image + views,
            axis=0,
            out=rows.numpy(),
            mode="clip",  # the other modes copy twice
        )
        return rows


def filled_store(
    cache: Path,
    record: StoreRecord,
    source: RowSource,
    progress: Progress,
    *,
    sync_seconds: float = 1.0,
) -> FeatureStore:
    """Return the store of `record` below `cache`, computing what is missing of it.

    A run that is killed continues after the last synced rows. One process computes.
    Other processes that need the same store, of this run or another, wait and then read
    it. They wait for a file lock and not for a collective: a collective would time out,
    and machines that do not share a cache must each compute.

    Args:
        cache: the folder of all stores.
        record: what the store is to hold.
        source: computes the rows.
        progress: shows how far it is.
        sync_seconds: how often rows are synced; a kill loses at most this much work.

    Raises:
        UsageError: the disk is full, a feature is not finite or too large for float16, or
            the store's files are damaged.
    """
    folder = cache / record.folder
    if rows_done(folder, record) < record.rows:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"Expected a folder for the teacher's features at {cache}: "
                f"{error.strerror}. Name another `cache` in [teacher]."
            ) from error
        with _alone(folder, progress):
            done = rows_done(folder, record)
            if done < record.rows:
                if not done:
                    _print_differences(cache, record, progress)
                _require_room(folder, FEATURES, record.shape, done, progress)
                with write_errors_explained(folder):
                    _write_record(folder, record)
                _fill(folder, record, source, done, progress, sync_seconds)
    return FeatureStore(folder, record)


def rows_done(folder: Path, record: StoreRecord) -> int:
    """Return how many rows earlier runs have synced; 0 where there is no store.

    Raises:
        UsageError: the store's files contradict each other.
    """
    try:
        done = json.loads((folder / _DONE).read_bytes())
        found = StoreRecord.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (ValidationError, ValueError) as error:
        raise _damaged(folder, f"its {RECORD} or {_DONE} cannot be read") from error
    if found.model_dump(exclude={"teacher"}) != record.model_dump(exclude={"teacher"}):
        raise _damaged(folder, f"{RECORD} is of another store")
    file = folder / FEATURES
    if not file.exists() or file.stat().st_size < done * record.row_bytes:
        raise _damaged(folder, f"{FEATURES} holds less than the {done:,} rows noted")
    return int(done)


@contextmanager
def write_errors_explained(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside this block into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} could not be written: {error.strerror}. Make room and run again; "
            f"what is computed already is kept."
        ) from error


def _fill(
    folder: Path,
    record: StoreRecord,
    source: RowSource,
    done: int,
    progress: Progress,
    sync_seconds: float,
) -> None:
    path = folder / FEATURES
    task = progress.add_task("Teacher features", total=record.rows, completed=done)
    with path.open("r+b" if done else "w+b", buffering=0) as file:
        with write_errors_explained(path):
            np.lib.format.write_array_header_2_0(
                file, {"descr": "<f2", "fortran_order": False, "shape": record.shape}
            )
        file.seek(done * record.row_bytes, os.SEEK_CUR)
        file.truncate()  # drops rows that were written but not synced
        began, before = time.monotonic(), done
        synced = began
        for tokens in source.batches(done):
            left = memoryview(_half(tokens, record, source, done).data).cast("B")
            done += len(tokens)
            now = time.monotonic()
            with write_errors_explained(path):
                while left:
                    left = left[file.write(left) :]
                if now - synced >= sync_seconds or done == record.rows:
                    os.fsync(file.fileno())
                    _note_rows_done(folder, done)
                    synced = now
            rate = (done - before) / max(now - began, 1e-9)
            progress.update(
                task, completed=done, description=f"Teacher, {rate:,.0f} images/s"
            )


def _half(
    tokens: Float[Tensor, "b n d"], record: StoreRecord, source: RowSource, first: int
) -> Float16[np.ndarray, "b n d"]:
    """Return the tokens in float16; refuse values that float16 cannot hold."""
    images = [source.image(first + place) for place in range(len(tokens))]
    require_finite_features(tokens, record.teacher.architecture, images)
    half = tokens.half()
    finite = half.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        place = int((~finite).nonzero()[0, 0])
        largest = tokens[place].abs().max().item()
        raise UsageError(
            f"The teacher's features of {source.image(first + place)} reach {largest:.4g}, "
            f"but float16 holds at most 65504. {_remedy(record)}"
        )
    return np.ascontiguousarray(half.cpu().numpy())


def _remedy(record: StoreRecord) -> str:
    if record.parts["kind"] == "plain":
        return (
            "The objectives kd and nd, pseudo-classes and batches of neighbours store the "
            'features of every image in float16, also with `features = "online"`. '
            "Leave these out of the recipe, or take another teacher."
        )
    return 'Compute them when they are needed: `features = "online"` in [teacher].'


def _require_room(
    folder: Path,
    name: str,
    shape: tuple[int, int, int, int],
    done: int,
    progress: Progress,
) -> None:
    """Print how large a store will be; refuse it if the disk is too small.

    Args:
        folder: where the store is.
        name: the file of its features, which may exist in part.
        shape: images, views, tokens, width; float16.
        done: rows that are there already.
        progress: prints it.

    Raises:
        UsageError: the store needs more space than is free.
    """
    images, views, tokens, width = shape
    size = math.prod(shape) * 2
    there = (folder / name).stat().st_size if done else 0
    free = shutil.disk_usage(folder).free
    product = f"{images:,} images x {views} views x {tokens} tokens x {width} values"
    if size - there > free:
        remedies = [f"name a `cache` on a larger disk (now {folder.parent})"]
        if tokens > 1:
            only = in_bytes(images * views * width * 2)
            remedies.insert(0, f'keep only `features = "embedding"` ({only})')
        if views > 1:
            remedies.insert(0, f"lower `views` ({in_bytes(size // views)} each)")
        raise UsageError(
            f"The teacher's features need {in_bytes(size - there)} at {folder}, "
            f"{in_bytes(free)} are free: {product} in float16. In [teacher], "
            f"{', or '.join(remedies)}."
        )
    say(
        progress,
        f"Teacher's features: {product}, {in_bytes(size)} in float16, at {folder} "
        f"({in_bytes(free)} free)"
        + (f"; {done:,} of {images * views:,} views are there already." if done else "."),
    )


def _print_differences(cache: Path, record: StoreRecord, progress: Progress) -> None:
    """Print why the most similar store in the cache cannot be used."""
    nearest: tuple[list[str], Path] | None = None
    for path in sorted(cache.glob(f"*/{RECORD}")):
        if path.parent.name == record.folder:
            continue
        try:
            parts = StoreRecord.model_validate_json(path.read_bytes()).parts
        except (OSError, ValidationError):
            continue
        names = record.parts.keys() | parts.keys()
        differing = sorted(n for n in names if record.parts.get(n) != parts.get(n))
        if not {"kind", "teacher"} & set(differing) and (
            nearest is None or len(differing) < len(nearest[0])
        ):
            nearest = differing, path.parent
    if nearest is not None:
        say(
            progress,
            f"The features in {nearest[1]} cannot be used: they differ in "
            f"{', '.join(nearest[0])}. Both are kept.",
        )


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(
            progress,
            f"Another process computes the teacher's features in {folder}; waiting.",
        )
        lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()


def _note_rows_done(folder: Path, done: int) -> None:
    """Write to `rows.json` how many rows are synced."""
    _replace(folder / _DONE, json.dumps(done))


def _write_record(folder: Path, record: StoreRecord) -> None:
    """Write `store.json`."""
    _replace(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def _replace(path: Path, content: str) -> None:
    pending = path.with_name(f".{path.name}.pending")
    with pending.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)


def _damaged(folder: Path, fault: str) -> UsageError:
    """Return the error for a store whose files are incomplete or wrong."""
    return UsageError(
        f"The teacher's features in {folder} are damaged: {fault}. Remove this folder "
        f"and run again; they are computed again."
    )


def _within(numbers: Int[np.ndarray, " b"], count: int) -> bool:
    return bool(((numbers >= 0) & (numbers < count)).all())
