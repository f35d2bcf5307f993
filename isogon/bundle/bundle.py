"""A bundle on disk: opening verifies every file, and a stage adds all its files or none.

A stage writes beside the existing files, then publishes by one atomic replacement of the
manifest. So a stage that is killed leaves the previous valid bundle.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from isogon.bundle.manifest import (
    MANIFEST,
    Manifest,
    Stage,
    manifest_from_bytes,
    manifest_to_bytes,
    require_inert,
)
from isogon.bundle.stage_writer import (
    LOCK,
    StageWriter,
    exclusive,
    fault_of,
    finish_renames,
    fsync,
    settled,
)
from isogon.errors import BundleError, DamagedFileError, UsageError, option

Record = TypeVar("Record", bound=BaseModel)

_REMEDIES: dict[Stage, str] = {
    "distill": "Restore it from a copy, or distil into a new bundle.",
    "evaluate": "Restore it, or run `isogon evaluate {path}` again.",
    "calibrate": "Restore it, or run `isogon calibrate {path} --images DIR` again.",
    "export": "Restore it from a copy, or run `isogon export {path}` again.",
}


class Bundle:
    """An opened bundle, with every file verified."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        """Return the path and what is in it, for a notebook."""
        return (
            f"Bundle({str(self.path)!r}: {self.manifest.name}, {self.manifest.width} wide)"
        )

    @classmethod
    def open(cls, path: str | Path, *, rewriting: Collection[Stage] = ()) -> "Bundle":
        """Open the bundle at `path` and verify every file in its manifest.

        Args:
            path: the bundle's directory.
            rewriting: stages that will write their files again, which are not verified.

        Raises:
            BundleError: there is no bundle. `DamagedFileError` names the damaged file,
                `SchemaVersionError` a format that this version does not read,
                `ForbiddenFileError` a page that could run something.
        """
        path = Path(path)
        bundle = cls._read(path)
        damaged = bundle._damaged()
        if damaged:
            # A stage may be between manifest and rename, or was killed there.
            with settled(path):
                bundle = cls._read(path)
                finish_renames(path, bundle.manifest)
                damaged = bundle._damaged()
        for name, fault in damaged.items():
            stage = bundle.manifest.files[name].stage
            if stage not in rewriting:
                remedy = _REMEDIES[stage].format(path=path)
                raise DamagedFileError(f"{path}: {name} {fault}. {remedy}")
        for name in bundle.manifest.files:
            if name.endswith(".html") and name not in damaged:
                require_inert(name, (path / name).read_bytes())
        return bundle

    @classmethod
    @contextmanager
    def create(cls, path: Path, manifest: Manifest) -> Iterator[StageWriter]:
        """Make a bundle at `path`; it appears there complete or not at all.

        Raises:
            UsageError: `path` exists already.
            BundleError: another process is making it.
        """
        require_absent(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        with exclusive(partial):
            for leftover in partial.iterdir():  # of a killed run
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                elif leftover.name != LOCK:
                    leftover.unlink()
            writer = StageWriter(partial, "distill", {})
            yield writer
            writer.publish(manifest)
            partial.rename(path)
            fsync(path.parent)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[StageWriter]:
        """Add this stage's files; on an exception the bundle is unchanged.

        Raises:
            BundleError: another process is changing the bundle, or has changed it.
        """
        with exclusive(self.path):
            if (self.path / MANIFEST).read_bytes() != manifest_to_bytes(self.manifest):
                raise BundleError(
                    f"{self.path} was changed by another process since it was opened; "
                    f"nothing was written. Run the command again."
                )
            writer = StageWriter(self.path, stage, self.manifest.files)
            try:
                yield writer
            except BaseException:
                writer.discard()
                raise
            self.manifest = writer.publish(self.manifest)

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def fault(self, name: str) -> str | None:
        """Return what is wrong with a file of the bundle now, or None."""
        entry = self.manifest.files.get(name)
        return "is missing" if entry is None else fault_of(self.path / name, entry)

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
        try:
            return safetensors.numpy.load_file(self.file(name))
        except SafetensorError as error:
            raise BundleError(
                f"{self.path}: {name} is not a safetensors file: {error}. Restore it."
            ) from error

    def record(self, name: str, model: type[Record]) -> Record:
        """Return a JSON file as the pydantic model it was written from."""
        try:
            return model.model_validate_json(self.file(name).read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            remedy = _REMEDIES[self.manifest.files[name].stage].format(path=self.path)
            raise BundleError(
                f"{self.path}: {name} is not a {model.__name__} of this version of "
                f"Isogon: `{key}`: {first['msg']}. {remedy}"
            ) from error

    @classmethod
    def _read(cls, path: Path) -> "Bundle":
        manifest_path = path / MANIFEST
        if not manifest_path.is_file():
            found = "a file" if path.exists() else "nothing"
            if path.is_dir():
                found = "a directory without manifest.json"
            raise BundleError(
                f"Expected a bundle at {path}, found {found}. Make one with "
                f"`isogon quickstart` or `isogon distill RECIPE`."
            )
        return cls(path, manifest_from_bytes(manifest_path.read_bytes(), where=str(path)))

    def _damaged(self) -> dict[str, str]:
        """Return what is wrong with each damaged file, by name."""
        faults = {name: self.fault(name) for name in self.manifest.files}
        return {name: fault for name, fault in faults.items() if fault is not None}


def require_absent(path: Path) -> None:
    """Raise `UsageError` if `path` exists, or no folder can be made there.

    Bundles are never overwritten.
    """
    if path.exists():
        raise UsageError(
            f"{path} exists already, and a bundle is never overwritten. "
            f"Choose another {option('output')}, or remove it first."
        )
    nearest = next(each for each in path.absolute().parents if each.exists())
    if not nearest.is_dir():
        raise UsageError(
            f"{path} cannot be made: {nearest} is a file, not a folder. Choose another "
            f"{option('output')}."
        )
    if not os.access(nearest, os.W_OK):
        raise UsageError(
            f"{path} cannot be made: {nearest} may not be written to. Choose another "
            f"{option('output')}."
        )
