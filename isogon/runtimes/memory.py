"""Memory of this process: how much it uses, and how much it may still take."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import ByteSize

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")

# Control groups, version 1 and 2: the files of limit and use, and the entry of
# memory.stat that is only a cache of files.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """Return how many bytes this process may still take; None if unknown.

    It is the minimum of what the machine has free and what each control group, such as a
    container's, leaves.

    Args:
        proc: the folder of processes.
        groups: where control groups are mounted.
    """
    left = [_of_machine(proc), *_of_groups(proc, groups)]
    known = [one for one in left if one is not None]
    return max(0, min(known)) if known else None


def in_bytes(number: int) -> str:
    """Return a number of bytes as text, such as "2.6 GB"."""
    return ByteSize(number).human_readable(decimal=True, separator=" ")


def resident_memory() -> int:
    """Return the resident bytes of this process now; its peak where that is unknown."""
    now = _status("VmRSS")
    return _peak_of_system() if now is None else now


def forget_peak() -> None:
    """Free unused memory and reset `peak_memory`, if the system can."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
    try:
        (_PROC / "self" / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Return the most bytes this process has had since `forget_peak`."""
    peak = _status("VmHWM")
    return _peak_of_system() if peak is None else peak


def private_memory(process: int) -> int:
    """Return the bytes that a process shares with no other; 0 if unknown."""
    try:
        text = (_PROC / str(process) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024
        for line in text.splitlines()
        if line.startswith("Private_")
    )


def _status(name: str) -> int | None:
    try:
        lines = (_PROC / "self" / "status").read_text().splitlines()
    except OSError:
        return None
    return next((_kibibytes(line) for line in lines if line.startswith(f"{name}:")), None)


def _peak_of_system() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _of_machine(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    name = "MemAvailable:"
    return next((_kibibytes(line) for line in lines if line.startswith(name)), None)


def _kibibytes(line: str) -> int:
    return int(line.split()[1]) * 1024


def _of_groups(proc: Path, groups: Path) -> list[int]:
    """Return the bytes that each control group of this process leaves, of both versions."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            roots, names = [groups, groups / "unified"], _V2
        elif "memory" in controllers.split(","):
            roots, names = [groups / "memory"], _V1
        else:
            continue
        for root in roots:
            left += [
                found
                for folder in _upwards(root, place)
                if (found := _left(folder, *names)) is not None
            ]
    return left


def _upwards(root: Path, place: str) -> list[Path]:
    """Return the group's folder and its parents; in a container only the root exists."""
    folder = root / place.lstrip("/")
    found = [folder, *folder.parents]
    return found[: found.index(root) + 1]


def _left(folder: Path, limit: str, use: str, cache: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return None
        used = int((folder / use).read_text())
        statistics = (folder / "memory.stat").read_text().split()
    except OSError:
        return None
    pairs = dict(zip(statistics[::2], statistics[1::2], strict=True))
    return int(most) - used + int(pairs.get(cache, 0))
