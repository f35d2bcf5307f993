"""What a trial needs of this machine, said before it starts."""

import os
import shutil
import sys
from pathlib import Path


def require(commands: dict[str, str], files: dict[Path, str]) -> None:
    """Exit with everything that is missing, and where it is had.

    Args:
        commands: of PATH; and where they come from.
        files: that have to be there; and what makes them.
    """
    missing = [] if os.geteuid() == 0 else ["root, for namespaces and mounts"]
    # Debian keeps some in folders that not every PATH has.
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin{os.pathsep}/sbin"
    missing += [f"`{c}`: {how}" for c, how in commands.items() if not shutil.which(c)]
    missing += [f"{path}: {how}" for path, how in files.items() if not path.exists()]
    if missing:
        sys.exit("This trial needs, and does not find:\n  " + "\n  ".join(missing))
