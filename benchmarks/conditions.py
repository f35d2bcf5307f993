"""The conditions of a benchmark run: the sentence above its table."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def conditions(*packages: str) -> str:
    """Return command, machine, versions, commit and load; call it before the work.

    Args:
        packages: packages whose versions to name, besides torch and timm.
    """
    cpu = f"{os.cpu_count()} {processor()} cores, {torch.get_num_threads()} threads"
    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    versions = ", ".join(
        f"{name} {_version(name)}" for name in ("torch", "timm", *packages)
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return (
        f"`python {' '.join(map(_shown, sys.argv))}`, {device}{cpu}, Python "
        f"{platform.python_version()}, {versions}, commit {commit or 'unknown'}, load "
        f"average at the start {os.getloadavg()[0]:.1f}."
    )


def _shown(argument: str) -> str:
    """Return an argument as given; for an absolute path, its last part."""
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Return the CPU's name as the kernel knows it, or its architecture."""
    known = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", known.read_text()) if known.exists() else []
    return f"{names[0]} {platform.machine()}" if names else platform.machine()


def machine_name() -> str:
    """Return the GPU's name, as a part of file names; `cpu` without a GPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
