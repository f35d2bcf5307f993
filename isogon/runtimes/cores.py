"""How many CPU cores this process may use: a container's share, not the machine's."""

import math
import os
from pathlib import Path

# Control groups, version 2; within a container the root is the container's own group.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Args:
        quota: the file that says "microseconds period", or "max period" for no quota.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    if quota.is_file():
        granted, period = quota.read_text().split()
        if granted != "max":
            allowed = min(allowed, math.ceil(int(granted) / int(period)))
    return max(1, allowed)
