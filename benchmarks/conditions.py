"""Under which conditions a benchmark ran: the sentence above its table."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version

import torch


def conditions() -> str:
    """Return command, machine, versions, commit and load; call it before the work."""
    cpu = f"{os.cpu_count()} {platform.machine()} cores, {torch.get_num_threads()} threads"
    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm"))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return (
        f"`python {' '.join(sys.argv)}`, {device}{cpu}, Python "
        f"{platform.python_version()}, {versions}, commit {commit}, load average at the "
        f"start {os.getloadavg()[0]:.1f}."
    )
