"""Where a bundle is: a directory, or a model of BentoML's store; and has it changed?"""

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
            the Bento that is being served, without a version the latest.

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
    except (BentoMLException, ValueError) as error:  # ValueError: it is no tag at all
        raise UsageError(
            f"{location} names no model of BentoML's store: {error}. "
            f"`bentoml models list` shows them, `isogon publish BUNDLE` adds one; or set "
            f"ISOGON_BUNDLE to a bundle's directory."
        ) from error


@cache
def _know_our_bento() -> None:
    """Make BentoML know the models of the Bento that this code is in, if it is in one.

    `bentoml serve` does so itself; in a container we are started without it.
    """
    root = Path(__file__).resolve().parents[2]  # a Bento has its code in src/
    if (root / "bento.yaml").is_file():
        import bentoml

        bentoml.load(str(root))


def split_places(text: str) -> list[str]:
    """Return the places in a text that `os.pathsep` joins, where that is in tags too.

    What follows `bentoml:NAME` is its version, unless it has a slash, a backslash or an
    equals sign, or begins the next `bentoml:`.
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
    """Return each file's path, inode, bytes and time of change; no file is read.

    Links are followed, so that one that moves on is a change. Hidden files are passed
    over: a stage that is still at work has those.
    """
    found = []
    for folder, _, names in os.walk(path.resolve()):  # passes over folders that are gone
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            try:
                status = file.stat()
            except OSError:  # gone since it was listed
                continue
            if S_ISREG(status.st_mode):
                seen = (status.st_ino, status.st_size, status.st_mtime_ns)
                found.append((str(file), *seen))
    return tuple(sorted(found))
