"""The cached result of reading all images once, so that a resumed run can reuse it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pi_heif
import PIL
from filelock import FileLock
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, ValidationError

from isogon.images.copies import SIDE

# Raise it when `isogon/images/` accepts or refuses other files than before, or makes other
# thumbnails.
_DECODER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """The result of reading all images of a source."""

    faults: dict[str, str]  # why an image cannot be read, by its name
    thumbnails: UInt8[np.ndarray, "images 16 16"]  # zeros for an unreadable image


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    where: str
    revision: str
    faults: dict[str, str]  # by the image's name


@dataclass(frozen=True, kw_only=True, slots=True)
class ExaminationRecord:
    """The cache file of a source, JSON, with its thumbnails; without a path, no cache."""

    path: Path | None
    where: str
    revision: str  # changes with names, sizes, modification times and the decoder

    @classmethod
    def at(
        cls,
        folder: Path | None,
        where: str,
        names: Sequence[str],
        files: Iterable[Path],
        *,
        reading: str = "",
    ) -> "ExaminationRecord":
        """Return the record in `folder` for these images as they are now.

        Nothing is cached without a folder, or if the images' files are unknown. `reading`
        describes the options of decoding.
        """
        current = None if folder is None else revision(names, files)
        if folder is None or current is None:
            return cls(path=None, where=where, revision="")
        number = hashlib.blake2b(_bytes(where), digest_size=6).hexdigest()
        return cls(
            path=folder / f"readable-{number}.json",
            where=where,
            revision=f"{current}{reading}",
        )

    def alone(self) -> AbstractContextManager[object]:
        """Return a lock on the record, to hold while it is made."""
        if self.path is None:
            return nullcontext()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def load(self) -> Examined | None:
        """Return the cached result, or None if there is none or something has changed."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = _Content.model_validate_json(self.path.read_bytes())
            thumbnails = np.load(self._thumbnails)
        except (ValidationError, OSError, ValueError):
            return None
        if content.revision != self.revision or thumbnails.shape[1:] != (SIDE, SIDE):
            return None
        return Examined(faults=content.faults, thumbnails=thumbnails)

    def save(self, examined: Examined) -> None:
        """Write the result atomically, in place of that of another revision."""
        if self.path is None:
            return
        self.path.unlink(missing_ok=True)
        np.save(self._thumbnails, examined.thumbnails)
        content = {
            "where": self.where,
            "revision": self.revision,
            "faults": examined.faults,
        }
        pending = self.path.with_suffix(".pending")
        pending.write_text(json.dumps(content, indent=2), encoding="utf-8")
        pending.replace(self.path)

    @property
    def _thumbnails(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".npy")


def revision(names: Sequence[str], files: Iterable[Path]) -> str | None:
    """Return a digest of names, sizes, modification times and the decoder's version.

    None if the files are unknown.
    """
    decoder = f"{PIL.__version__} {pi_heif.__version__} {_DECODER}"
    digest = hashlib.blake2b(decoder.encode(), digest_size=16)
    for name in names:
        digest.update(_bytes(name) + b"\0")
    known = False
    for path in files:
        known = True
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(_bytes(f"{path}\0{state}\0"))
    return digest.hexdigest() if known else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
