"""What a trial needs on this machine, checked before it starts."""

import os
import shutil
import sys
from pathlib import Path


def require(commands: dict[str, str], files: dict[Path, str]) -> None:
    """Exit with a list of everything that is missing, and how to get it.

    Args:
        commands: on PATH, each with the package that has it.
        files: that must exist, each with what makes it.
    """
    missing = [] if os.geteuid() == 0 else ["root, for namespaces and mounts"]
    # Debian has some commands in folders that are not on every PATH.
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    missing += [f"`{c}`: {how}" for c, how in commands.items() if not shutil.which(c)]
    missing += [f"{path}: {how}" for path, how in files.items() if not path.exists()]
    if missing:
        sys.exit("This trial needs, and does not find:\n  " + "\n  ".join(missing))
