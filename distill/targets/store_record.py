"""The record of a store on disk: what it holds, and how much of it is finished."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from isogon.bundle import TeacherCard
from isogon.errors import UsageError

FEATURES = "features.npy"
RECORD = "store.json"
_DONE = "rows.json"  # how many rows are on the disk for certain

# What the features depend on, by name: their store's key is the hash of it all.
Parts = dict[str, JsonValue]


class StoreRecord(BaseModel):
    """`store.json`: what a store holds and what it was computed from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    parts: Parts
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


def rows_done(folder: Path, record: StoreRecord) -> int:
    """Return how many rows an earlier run has synced; 0 where there was none.

    Raises:
        UsageError: the store's files contradict one another.
    """
    try:
        done = json.loads((folder / _DONE).read_bytes())
        found = StoreRecord.model_validate_json((folder / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (ValidationError, ValueError) as error:
        raise damaged(folder, f"its {RECORD} or {_DONE} cannot be read") from error
    if found.model_dump(exclude={"teacher"}) != record.model_dump(exclude={"teacher"}):
        raise damaged(folder, f"{RECORD} is of another store")
    file = folder / FEATURES
    if not file.exists() or file.stat().st_size < done * record.row_bytes:
        raise damaged(folder, f"{FEATURES} holds less than the {done:,} rows noted")
    return int(done)


def note_rows_done(folder: Path, done: int) -> None:
    """Record that so many rows are on the disk."""
    _replace(folder / _DONE, json.dumps(done))


def write_record(folder: Path, record: StoreRecord) -> None:
    """Write `store.json`."""
    _replace(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def _replace(path: Path, content: str) -> None:
    pending = path.with_name(f".{path.name}.pending")
    with pending.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)


def damaged(folder: Path, fault: str) -> UsageError:
    """Return the error for a store that is not whole."""
    return UsageError(
        f"The teacher's features in {folder} are damaged: {fault}. Remove this folder "
        f"and run again; they are computed anew."
    )
