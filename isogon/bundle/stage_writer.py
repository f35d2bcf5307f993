"""How a stage writes its files: first under pending names, then published together.

This implements rule 2. Every file is written as `.<name>.pending` and synced. Replacing
the manifest publishes them all. After that, only renames are left, which `Bundle.open`
finishes if this process is killed.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from pydantic import BaseModel

from isogon.bundle.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Stage,
    manifest_to_bytes,
    require_inert,
    require_safe_path,
)
from isogon.errors import AppendOnlyError, BundleError, IsogonError

LOCK = ".lock"
_PATIENCE = 5.0  # seconds


class StageWriter:
    """The files a stage adds; not part of the bundle until they are published together."""

    def __init__(
        self,
        root: Path,
        stage: Stage,
        existing: dict[str, FileEntry],
        pending: dict[str, Stage] | None = None,
        withdrawn: set[str] | None = None,
    ) -> None:
        self._root = root
        self._stage = stage
        self._existing = existing
        self._pending = {} if pending is None else pending
        self._withdrawn = set() if withdrawn is None else withdrawn

    def also(self, stage: Stage) -> "StageWriter":
        """Return a writer for another stage's files, published at the same time."""
        return StageWriter(
            self._root, stage, self._existing, self._pending, self._withdrawn
        )

    def path(self, name: str) -> Path:
        """Return the path to write the file to that will be `name` once published.

        Raises:
            AppendOnlyError: `name` belongs to another stage (rule 1).
            ForbiddenFileError: `name` is not a kind of file a bundle holds (rule 3).
        """
        require_safe_path(name)
        self._require_own(name)
        self._withdrawn.discard(name)
        final = self._root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        self._pending[name] = self._stage
        return _pending(final)

    def withdraw(self, name: str) -> None:
        """Remove a file of this stage from the bundle when the others are published.

        Raises:
            AppendOnlyError: `name` belongs to another stage (rule 1).
        """
        self._require_own(name)
        if self._pending.pop(name, None) is not None:
            _pending(self._root / name).unlink(missing_ok=True)
        if name in self._existing:
            self._withdrawn.add(name)

    def write(self, name: str, content: bytes | str | BaseModel) -> None:
        """Add `name` with this content; a pydantic model becomes indented JSON."""
        if isinstance(content, BaseModel):
            content = content.model_dump_json(indent=2) + "\n"
        data = content.encode() if isinstance(content, str) else content
        path = self.path(name)
        try:
            path.write_bytes(data)
        except OSError as error:
            error.filename = error.filename or str(path)  # Python names it in open() only
            raise

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Add `name` as a safetensors file."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        self.write(name, safetensors.numpy.save(contiguous))

    def sha256(self, name: str) -> str:
        """Return the SHA-256, in hex, of a file this stage has written."""
        return _digest(_pending(self._root / name))[0]

    def publish(self, manifest: Manifest) -> Manifest:
        """Publish every written file; the manifest comes last.

        A file that replaces an older one of the same stage keeps its pending name until
        the manifest lists the new bytes; if this process dies before the rename,
        `Bundle.open` does it.
        """
        entries = {
            name: entry
            for name, entry in manifest.files.items()
            if name not in self._withdrawn
        }
        for name, stage in self._pending.items():
            pending = _pending(self._root / name)
            if name.endswith(".html"):
                require_inert(name, pending.read_bytes())
            fsync(pending)
            digest, size = _digest(pending)
            entries[name] = FileEntry(sha256=digest, bytes=size, stage=stage)
            if name not in manifest.files:
                pending.replace(self._root / name)
        folders = {(self._root / name).parent for name in self._pending}
        for folder in folders:
            fsync(folder)
        manifest = manifest.model_copy(update={"files": dict(sorted(entries.items()))})
        pending_manifest = _pending(self._root / MANIFEST)
        pending_manifest.write_bytes(manifest_to_bytes(manifest))
        fsync(pending_manifest)
        pending_manifest.replace(self._root / MANIFEST)
        finish_renames(self._root, manifest)
        for name in self._withdrawn:
            (self._root / name).unlink(missing_ok=True)
        for folder in {*folders, self._root}:
            fsync(folder)
        return manifest

    def discard(self) -> None:
        """Remove the written files: the stage did not finish."""
        for name in self._pending:
            _pending(self._root / name).unlink(missing_ok=True)

    def _require_own(self, name: str) -> None:
        entry = self._existing.get(name)
        if entry is not None and entry.stage != self._stage:
            raise AppendOnlyError(
                f"{name} belongs to the stage `{entry.stage}`, and the stage "
                f"`{self._stage}` may only add files; write to another path."
            )


def finish_renames(root: Path, manifest: Manifest) -> None:
    """Rename the pending files that the manifest lists already."""
    for name, entry in manifest.files.items():
        pending = _pending(root / name)
        if pending.exists() and fault_of(pending, entry) is None:
            pending.replace(root / name)


def fault_of(path: Path, entry: FileEntry) -> str | None:
    """Return what is wrong with a file, or None."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"is damaged: it has {size:,} bytes, the manifest says {entry.bytes:,}"
    digest, _ = _digest(path)
    if digest != entry.sha256:
        return (
            f"is damaged: its SHA-256 is {digest[:12]}…, "
            f"the manifest says {entry.sha256[:12]}…"
        )
    return None


@contextmanager
def exclusive(folder: Path, busy: IsogonError | None = None) -> Iterator[None]:
    """Let one process at a time write here; the lock ends with the process.

    Raises:
        IsogonError: another process writes here: `busy`, or else a `BundleError`.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy or BundleError(
            f"Another process is writing {folder}. Wait for it, then run this again."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def settled(folder: Path) -> Iterator[None]:
    """Wait up to 5 s for a stage that is publishing; go on if waiting is impossible."""
    lock = FileLock(folder / LOCK, timeout=_PATIENCE)
    with suppress(Timeout, OSError):  # a long stage, or a read-only medium
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> tuple[str, int]:
    return sha256_of(path), path.stat().st_size


def _pending(final: Path) -> Path:
    return final.with_name(f".{final.name}.pending")
