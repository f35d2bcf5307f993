"""A bundle on disk: opened only if every byte is as promised, extended only whole.

A stage writes beside the files in force and publishes with one atomic replacement
of the manifest, so a stage killed at any moment leaves the previous valid bundle.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ValidationError

from bundle.errors import (
    AppendOnlyError,
    BundleError,
    DamagedFileError,
    UsageError,
)
from bundle.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Stage,
    manifest_from_bytes,
    manifest_to_bytes,
    require_safe_path,
)

Record = TypeVar("Record", bound=BaseModel)

_REMEDIES: dict[Stage, str] = {
    "distill": "Restore it from a copy, or distil into a new bundle.",
    "calibrate": "Restore it, or run `isogon calibrate {path} --images DIR` again.",
    "export": "Restore it from a copy, or run `isogon export {path}` again.",
}


class StageWriter:
    """The files a stage adds; invisible until they are published together."""

    def __init__(
        self,
        root: Path,
        stage: Stage,
        existing: dict[str, FileEntry],
        pending: dict[str, Stage] | None = None,
    ) -> None:
        self._root = root
        self._stage = stage
        self._existing = existing
        self._pending = {} if pending is None else pending

    def also(self, stage: Stage) -> "StageWriter":
        """Return a writer for another stage's files, published in the same moment."""
        return StageWriter(self._root, stage, self._existing, self._pending)

    def path(self, name: str) -> Path:
        """Return where to write the file that will be `name` once published.

        Raises:
            AppendOnlyError: `name` belongs to another stage (rule 1).
            ForbiddenFileError: `name` is not a kind of file a bundle holds (rule 3).
        """
        require_safe_path(name)
        entry = self._existing.get(name)
        if entry is not None and entry.stage != self._stage:
            raise AppendOnlyError(
                f"{name} belongs to the stage `{entry.stage}`, and the stage "
                f"`{self._stage}` may only add files; write to a path of its own."
            )
        final = self._root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        self._pending[name] = self._stage
        return _pending(final)

    def write(self, name: str, content: bytes | str | BaseModel) -> None:
        """Add `name` with this content; a record becomes indented JSON."""
        if isinstance(content, BaseModel):
            content = content.model_dump_json(indent=2) + "\n"
        data = content.encode() if isinstance(content, str) else content
        self.path(name).write_bytes(data)

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Add `name` as a safetensors file."""
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        self.write(name, safetensors.numpy.save(contiguous))

    def sha256(self, name: str) -> str:
        """Return the SHA-256, in hex, of a file this stage has written."""
        return _digest(_pending(self._root / name))[0]

    def publish(self, manifest: Manifest) -> Manifest:
        """Bring every file written into force; the manifest comes last.

        A file that replaces an older one of the same stage keeps its pending name
        until the manifest promises the new bytes; `Bundle.open` finishes the rename
        should this process die in between.
        """
        entries = dict(manifest.files)
        for name, stage in self._pending.items():
            pending = _pending(self._root / name)
            _fsync(pending)
            digest, size = _digest(pending)
            entries[name] = FileEntry(sha256=digest, bytes=size, stage=stage)
            if name not in manifest.files:
                pending.replace(self._root / name)
        manifest = manifest.model_copy(update={"files": dict(sorted(entries.items()))})
        pending_manifest = _pending(self._root / MANIFEST)
        pending_manifest.write_bytes(manifest_to_bytes(manifest))
        _fsync(pending_manifest)
        pending_manifest.replace(self._root / MANIFEST)
        for name in self._pending:
            pending = _pending(self._root / name)
            if pending.exists():
                pending.replace(self._root / name)
        _fsync(self._root)
        return manifest

    def discard(self) -> None:
        """Forget what was written: the stage did not finish."""
        for name in self._pending:
            _pending(self._root / name).unlink(missing_ok=True)


class Bundle:
    """An opened bundle, each of its files verified."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, *, rewriting: Collection[Stage] = ()) -> "Bundle":
        """Open the bundle at `path` and verify every file in its manifest.

        Args:
            path: the bundle's directory.
            rewriting: stages about to make their files again; those are not verified.

        Raises:
            BundleError: there is no bundle; `DamagedFileError` names the file and
                what is wrong with it, `SchemaVersionError` a format not read here.
        """
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            found = "a directory without manifest.json" if path.is_dir() else "nothing"
            raise BundleError(
                f"Expected a bundle at {path}, found {found}. Make one with "
                f"`isogon quickstart` or `isogon distill RECIPE`."
            )
        bundle = cls(path, manifest_from_bytes(manifest_path.read_bytes(), where=str(path)))
        for name, entry in bundle.manifest.files.items():
            if entry.stage not in rewriting:
                bundle._require_intact(name, entry)
        return bundle

    @classmethod
    @contextmanager
    def create(cls, path: Path, manifest: Manifest) -> Iterator[StageWriter]:
        """Make a bundle at `path`; it appears there whole, or not at all.

        Raises:
            UsageError: something is at `path` already.
        """
        require_absent(path)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir(parents=True)
        writer = StageWriter(partial, "distill", {})
        try:
            yield writer
            writer.publish(manifest)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[StageWriter]:
        """Add this stage's files; on an exception the bundle stays as it was.

        Raises:
            BundleError: another process changed the bundle in the meantime.
        """
        before = (self.path / MANIFEST).read_bytes()
        writer = StageWriter(self.path, stage, self.manifest.files)
        try:
            yield writer
            if (self.path / MANIFEST).read_bytes() != before:
                raise BundleError(
                    f"{self.path} was changed by another process while the stage "
                    f"`{stage}` ran; nothing was written. Run it again."
                )
            self.manifest = writer.publish(self.manifest)
        except BaseException:
            writer.discard()
            raise

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Return the path of a file in the manifest.

        Raises:
            BundleError: the manifest has no such file.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"{self.path} has no {name}. It holds: "
                f"{', '.join(self.manifest.files) or 'no files'}."
            )
        return self.path / name

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a safetensors file."""
        return safetensors.numpy.load_file(self.file(name))

    def record(self, name: str, model: type[Record]) -> Record:
        """Return a JSON file as the pydantic model it was written from."""
        try:
            return model.model_validate_json(self.file(name).read_bytes())
        except ValidationError as error:
            raise BundleError(
                f"{self.path}: {name} is not a {model.__name__}: {error}"
            ) from error

    def _require_intact(self, name: str, entry: FileEntry) -> None:
        final = self.path / name
        fault = _fault(final, entry)
        if fault is None:
            return
        pending = _pending(final)
        if _fault(pending, entry) is None:  # killed between manifest and rename
            pending.replace(final)
            return
        remedy = _REMEDIES[entry.stage].format(path=self.path)
        raise DamagedFileError(f"{self.path}: {name} {fault}. {remedy}")


def require_absent(path: Path) -> None:
    """Raise `UsageError` if something is at `path`: bundles are never overwritten."""
    if path.exists():
        raise UsageError(
            f"{path} exists already, and a bundle is never overwritten. "
            f"Choose another --output, or remove it first."
        )


def _fault(path: Path, entry: FileEntry) -> str | None:
    """Return what is wrong with a file, or None."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"is damaged: it has {size:,} bytes, the manifest promises {entry.bytes:,}"
    digest, _ = _digest(path)
    if digest != entry.sha256:
        return (
            f"is damaged: its SHA-256 is {digest[:12]}…, "
            f"the manifest promises {entry.sha256[:12]}…"
        )
    return None


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _pending(final: Path) -> Path:
    return final.with_name(f".{final.name}.pending")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
