"""A cheap look at a bundle from outside: has anything in it changed?"""

import os
from pathlib import Path
from stat import S_ISREG

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
