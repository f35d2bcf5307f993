"""Locations of bundles, which are directories or models of BentoML's store; and stamps.

A stamp tells whether the files of a bundle have changed.
"""

import os
import re
from functools import cache
from pathlib import Path
from stat import S_ISREG

from isogon.errors import UsageError

STORED = "bentoml:"


def bundle_path(location: str | Path) -> Path:
    """Return the directory of a bundle.

    Args:
        location: a path; or `bentoml:NAME[:VERSION]`, a model of BentoML's store or of
            the Bento that is served. Without a version it is the latest.

    Raises:
        UsageError: the store has no such model.
    """
    tag = str(location).removeprefix(STORED)
    if tag == str(location):
        return Path(location)
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        _know_our_bento()
        return Path(bentoml.models.get(tag).path)
    except (BentoMLException, ValueError) as error:  # ValueError: it is not a tag
        raise UsageError(
            f"{location} is not a model in BentoML's store: {error}. "
            f"`bentoml models list` shows them, `isogon publish BUNDLE` adds one; or set "
            f"ISOGON_BUNDLE to a bundle's directory."
        ) from error


@cache
def _know_our_bento() -> None:
    """Load the Bento that this code is in, if any, so that BentoML finds its models.

    `bentoml serve` does this itself; the container starts us without it.
    """
    root = Path(__file__).resolve().parents[2]  # a Bento has its code in src/
    if (root / "bento.yaml").is_file():
        import bentoml

        bentoml.load(str(root))


def split_places(text: str) -> list[str]:
    """Split a text at `os.pathsep`, but not inside of `bentoml:NAME:VERSION`.

    What follows `bentoml:NAME:` is its version, unless it has a slash, a backslash or an
    equals sign, or is the next `bentoml:`.
    """
    places: list[str] = []
    for part in text.split(os.pathsep):
        last = places[-1] if places and os.pathsep == ":" else ""
        names = last.rpartition("=")[2]
        is_name = names == STORED[:-1]
        is_version = names.startswith(STORED) and names.count(":") == 1
        if is_name or (is_version and re.fullmatch(r"(?!bentoml$)[\w.-]+", part)):
            places[-1] = f"{last}:{part}"
        else:
            places.append(part)
    return places


Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(path: Path) -> Stamp:
    """Return each file's path, inode, size and modification time; no file is read.

    Links are followed, so a changed link is a change. Hidden files are skipped: a stage
    that is still writing the bundle has such files.
    """
    found = []
    for folder, _, names in os.walk(path.resolve()):  # skips folders that have vanished
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            try:
                status = file.stat()
            except OSError:  # gone since it was listed
                continue
            if S_ISREG(status.st_mode):
                seen = (status.st_ino, status.st_size, status.st_mtime_ns)
                found.append((str(file), *seen))
    return tuple(sorted(found))
