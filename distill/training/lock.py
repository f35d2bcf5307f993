"""One run at a time towards one bundle."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.recipe import TrainSection
from isogon.bundle.stage import exclusive
from isogon.errors import UsageError


@contextmanager
def sole_run(folder: Path, section: TrainSection) -> Iterator[None]:
    """Let one run at a time work in `folder`; the lock ends with its first process.

    Raises:
        UsageError: another run works there.
    """
    if not is_first_process(section):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    busy = UsageError(
        f"Another run is at work in {folder}. Wait for it or stop it, then run this "
        f"again; or choose another --output."
    )
    with exclusive(folder, busy):
        yield


def is_first_process(section: TrainSection) -> bool:
    """Return whether this process is the run's first, also before it is `launched`."""
    if section.devices * section.nodes == 1:
        return True
    # `torchrun` sets the first; Fabric, which starts processes on one machine, the second.
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
