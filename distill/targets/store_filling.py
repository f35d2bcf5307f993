"""Features computed once: written row by row, continued after an interruption."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float, Float16
from pydantic import ValidationError
from rich.progress import Progress
from torch import Tensor

from distill.targets.feature_store import FeatureStore
from distill.targets.finite import require_finite_features
from distill.targets.room import require_room
from distill.targets.store_record import (
    FEATURES,
    RECORD,
    StoreRecord,
    note_rows_done,
    rows_done,
    write_record,
)
from isogon.errors import UsageError

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSource:
    """Where the rows come from: view after view of image after image."""

    # The tokens from a row on, in batches; the same batches after an interruption.
    batches: Callable[[int], Iterator[Float[Tensor, "b n d"]]]
    image: Callable[[int], str]  # the name of a row's image, for messages


def filled_store(
    cache: Path,
    record: StoreRecord,
    source: RowSource,
    progress: Progress,
    *,
    sync_seconds: float = 1.0,
) -> FeatureStore:
    """Return the store of `record` below `cache`, computing what is missing of it.

    It may be killed at any moment and goes on from the last rows that were synced. One
    process computes; others that want the same store, of this run or another, wait
    for it and then read. A lock rather than a collective, which would time out, and
    which would not do for machines with a cache of their own each.

    Args:
        cache: the folder of all stores.
        record: what the store is to hold.
        source: computes the rows.
        progress: shows how far it is.
        sync_seconds: at most so much work is lost.

    Raises:
        UsageError: no room, a feature that is not finite or that float16 does not hold,
            or damaged files.
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
                    _tell_what_differs(cache, record, progress)
                require_room(folder, FEATURES, record.shape, done, progress)
                with written(folder):
                    write_record(folder, record)
                _fill(folder, record, source, done, progress, sync_seconds)
    return FeatureStore(folder, record)


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
        with written(path):
            np.lib.format.write_array_header_2_0(
                file, {"descr": "<f2", "fortran_order": False, "shape": record.shape}
            )
        file.seek(done * record.row_bytes, os.SEEK_CUR)
        file.truncate()  # rows that were written but not synced
        began, before = time.monotonic(), done
        synced = began
        for tokens in source.batches(done):
            left = memoryview(_half(tokens, record, source, done).data).cast("B")
            done += len(tokens)
            now = time.monotonic()
            with written(path):
                while left:
                    left = left[file.write(left) :]
                if now - synced >= sync_seconds or done == record.rows:
                    os.fsync(file.fileno())
                    note_rows_done(folder, done)
                    synced = now
            rate = (done - before) / max(now - began, 1e-9)
            progress.update(
                task, completed=done, description=f"Teacher, {rate:,.0f} images/s"
            )


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Say what to do where `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} could not be written: {error.strerror}. Make room and run again; "
            f"what is computed already is kept."
        ) from error


def _half(
    tokens: Float[Tensor, "b n d"], record: StoreRecord, source: RowSource, first: int
) -> Float16[np.ndarray, "b n d"]:
    """Return the tokens in float16; refuse those it cannot hold."""
    images = [source.image(first + place) for place in range(len(tokens))]
    require_finite_features(tokens, record.teacher.architecture, images)
    half = tokens.half()
    finite = half.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        place = int((~finite).nonzero()[0, 0])
        largest = tokens[place].abs().max().item()
        raise UsageError(
            f"The teacher's features of {source.image(first + place)} reach {largest:.4g}, "
            f"float16 holds up to 65504. {_remedy(record)}"
        )
    return np.ascontiguousarray(half.cpu().numpy())


def _remedy(record: StoreRecord) -> str:
    if record.parts["kind"] == "plain":
        return (
            "The objectives kd and nd, pseudo-classes and batches of neighbours ask for "
            'those of every image and keep them so, also with `features = "online"`. '
            "Leave these out of the recipe, or take another teacher."
        )
    return 'Compute them when they are needed: `features = "online"` in [teacher].'


def _tell_what_differs(cache: Path, record: StoreRecord, progress: Progress) -> None:
    """Say why the most similar store cannot be used."""
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
        progress.console.print(
            f"The features in {nearest[1]} are not these: they differ in "
            f"{', '.join(nearest[0])}. Both are kept.",
            markup=False,
            soft_wrap=True,
        )


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.console.print(
            f"Another process computes the teacher's features in {folder}; waiting.",
            markup=False,
            soft_wrap=True,
        )
        lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()
