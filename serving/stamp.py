"""A cheap look at a bundle from outside: has anything in it changed?"""

from pathlib import Path
from stat import S_ISREG

Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(path: Path) -> Stamp:
    """Return each file's path, inode, bytes and time of change; no file is read.

    Links are followed, so that one that moves on is a change. Hidden files are passed
    over: a stage that is still at work has those.
    """
    found = []
    for file in sorted(path.resolve().rglob("*")):
        try:
            status = file.stat()
        except OSError:  # gone since it was listed
            continue
        if S_ISREG(status.st_mode) and not file.name.startswith("."):
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            found.append((str(file), *seen))
    return tuple(found)
