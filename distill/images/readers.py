"""Errors of the processes that read images, as one clear sentence."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal

from isogon.errors import UsageError

_SHARED = Path("/dev/shm")
_NO_ROOM = "No space left on device", "shared memory", "Bus error"
_REMEDY = "then run the same command again: what is finished is kept"


@contextmanager
def readers_watched() -> Iterator[None]:
    """Work with a `DataLoader` of several processes; say what ended one of them.

    torch raises the error of such a process wherever the main thread happens to be: put
    this around everything that is done while they run.

    Raises:
        UsageError: one was killed, or found no shared memory.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        told = _told(str(error))
        if told is None:
            raise
        raise UsageError(told) from error


def _told(text: str) -> str | None:
    """Return the sentence for an error of `DataLoader`; None for any other error."""
    if "DataLoader worker" not in text and "torch_" not in text:
        return None
    if any(words in text for words in _NO_ROOM):
        return (
            f"The processes that read images found no room in shared memory: {_SHARED} "
            f"has {_size()}. Set `workers = 0` in [train], or give a container more with "
            f"`--shm-size 1g`, {_REMEDY}."
        )
    killed = re.search(r"killed by signal: (\w+)|(exited unexpectedly)", text)
    if killed is None:
        return None
    how = f"was killed ({killed[1]})" if killed[1] else "ended"
    return (
        f"A process that reads images {how}; where nobody stopped it, memory has run out. "
        f"Lower `workers` in [train] (0 reads in the main process), {_REMEDY}."
    )


def _size() -> str:
    try:
        return decimal(shutil.disk_usage(_SHARED).total)
    except OSError:
        return "none"
