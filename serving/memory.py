"""How much memory this process may take, and how much it has taken."""

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_OWN_PAGES = Path("/proc/self/statm")
_UNKNOWN = 4 * 2**30  # bytes; of a machine that does not tell


def machine_memory(groups: Path = _GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Return the bytes that this process may take: a container's, or the machine's.

    Args:
        groups: where control groups are mounted, version 1 or 2.
        own: the file that names this process's groups.
    """
    found = [_physical()]
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # The group's own limit, and those of all around it. Within a container the path
        # is often the one outside, and the root the container's own group.
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            found += _limit(root / folder / name)
    return min(found)


def resident_memory() -> int:
    """Return the bytes of memory that this process has; 0 where that is not told."""
    if not _OWN_PAGES.is_file():
        return 0
    return int(_OWN_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _limit(file: Path) -> list[int]:
    """Return the limit in a file; none where there is no file, or no limit in it."""
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdecimal() else []
