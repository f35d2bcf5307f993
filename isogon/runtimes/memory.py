"""Memory: what the machine or container allows, what is free, and what processes use.

A container's limit is that of its control groups, version 1 or 2. A group inside another
one has the limits of both. Within a container the path in /proc is often the one outside,
and the root of the mount is the container's own group, so all folders up to the root count.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")
_UNKNOWN = 4 * 2**30  # bytes, where the system does not tell how much memory it has


def machine_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Return how many bytes this process may use: the container's limit or the machine's.

    Args:
        proc: the folder of processes.
        groups: where control groups are mounted.
    """
    limits = [_physical(), *(group.limit() for group in _groups(proc, groups))]
    return min(limit for limit in limits if limit is not None)


def available_memory(proc: Path = _PROC, groups: Path = _GROUPS) -> int | None:
    """Return how many more bytes this process may use; None where the system does not tell.

    It is the least of what the machine has free and what each control group leaves.

    Args:
        proc: the folder of processes.
        groups: where control groups are mounted.
    """
    left = [_free_on_machine(proc), *(group.left() for group in _groups(proc, groups))]
    known = [one for one in left if one is not None]
    return max(0, min(known)) if known else None


def resident_memory() -> int:
    """Return how many bytes of memory this process has now; without /proc, its peak."""
    now = _status("VmRSS")
    return _peak_of_system() if now is None else now


def forget_peak() -> None:
    """Give free memory back and let `peak_memory` begin anew, where the system can."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's
    with suppress(OSError):
        (_PROC / "self" / "clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the most bytes this process has had since `forget_peak`."""
    peak = _status("VmHWM")
    return _peak_of_system() if peak is None else peak


def private_memory(process: int) -> int:
    """Return the bytes that only this process has; 0 where the system does not tell."""
    try:
        text = (_PROC / str(process) / "smaps_rollup").read_text()
    except OSError:
        return 0
    lines = text.splitlines()
    return sum(_kibibytes(line) for line in lines if line.startswith("Private_"))


def in_bytes(number: int) -> str:
    """Return a number of bytes for people, such as "2.6 GB"."""
    return ByteSize(number).human_readable(decimal=True, separator=" ")


@dataclass(frozen=True, slots=True)
class _GroupFiles:
    """The files of a control group, and the key in memory.stat of cached files."""

    limit: str
    used: str
    cached: str


_V1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group that this process is in."""

    folder: Path
    files: _GroupFiles

    def limit(self) -> int | None:
        """Return its limit in bytes; None where it has none."""
        try:
            text = (self.folder / self.files.limit).read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdecimal() else None

    def left(self) -> int | None:
        """Return the bytes below its limit, cached files not counted as used."""
        if (limit := self.limit()) is None:
            return None
        try:
            used = int((self.folder / self.files.used).read_text())
            statistics = (self.folder / "memory.stat").read_text().split()
        except OSError:
            return None
        pairs = dict(zip(statistics[::2], statistics[1::2], strict=True))
        return limit - used + int(pairs.get(self.files.cached, 0))


def _groups(proc: Path, groups: Path) -> Iterator[_Group]:
    """Yield the memory groups that this process is in, and those around them."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            roots, files = [groups, groups / "unified"], _V2
        elif "memory" in controllers.split(","):
            roots, files = [groups / "memory"], _V1
        else:
            continue
        own = Path(path.lstrip("/"))
        for root in roots:
            for folder in (own, *own.parents):
                yield _Group(root / folder, files)


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _free_on_machine(proc: Path) -> int | None:
    return _kibibytes_of("MemAvailable", proc / "meminfo")


def _status(name: str) -> int | None:
    return _kibibytes_of(name, _PROC / "self" / "status")


def _kibibytes_of(name: str, file: Path) -> int | None:
    """Return the bytes of the line `NAME: … kB` in a file; None without file or line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((_kibibytes(line) for line in lines if line.startswith(f"{name}:")), None)


def _kibibytes(line: str) -> int:
    return int(line.split()[1]) * 1024


def _peak_of_system() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
