"""Which images could not be read, remembered so that a resumed run need not look again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pi_heif
import PIL
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

# To be raised where `bundle/images/` accepts or refuses other files than before.
_DECODER = 2


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    where: str
    revision: str
    faults: dict[str, str]  # by the image's name


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultRecord:
    """One JSON file per source of images; without a path it remembers nothing."""

    path: Path | None
    where: str
    revision: str  # changes with names, sizes, times of change and the decoder

    @classmethod
    def at(
        cls,
        folder: Path | None,
        where: str,
        names: Sequence[str],
        files: Iterable[Path],
        *,
        reading: str = "",
    ) -> "FaultRecord":
        """Return the record in `folder` for these images as they are now.

        Nothing is remembered without a folder, nor of images whose files are unknown.
        `reading` says how they are decoded, where that can be chosen.
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
        """Return a lock on the record, to be held while it is made."""
        if self.path is None:
            return nullcontext()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def load(self) -> dict[str, str] | None:
        """Return the faults found before, or None where something has changed since."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            content = _Content.model_validate_json(self.path.read_bytes())
        except ValidationError:
            return None
        return content.faults if content.revision == self.revision else None

    def save(self, faults: dict[str, str]) -> None:
        """Remember these faults, atomically."""
        if self.path is None:
            return
        content = {"where": self.where, "revision": self.revision, "faults": faults}
        pending = self.path.with_suffix(".pending")
        pending.write_text(json.dumps(content, indent=2), encoding="utf-8")
        pending.replace(self.path)


def revision(names: Sequence[str], files: Iterable[Path]) -> str | None:
    """Return a digest that changes with names, sizes, times of change and the decoder.

    None where the files are unknown.
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
