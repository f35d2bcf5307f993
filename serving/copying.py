"""A long copy: room for it, how far it is, and nothing left of one that failed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from rich.progress import Progress

from isogon.errors import UsageError

_MEGABYTE = 10**6
_SPARE = 10 * _MEGABYTE  # for directories and what else is written meanwhile


def require_room(folder: Path, size: int) -> None:
    """Raise `UsageError` unless `size` bytes fit where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise UsageError(
            f"The bundle has {size / _MEGABYTE:,.1f} MB, but {folder} has only "
            f"{free / _MEGABYTE:,.1f} MB free. Make room (`bentoml models list`), or set "
            f"BENTOML_HOME to a folder on another disk."
        )


@contextmanager
def whole(target: Path, size: int) -> Iterator[None]:
    """Leave nothing at `target` if the block does not come to its end."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):
            target.parent.rmdir()  # empty, if this was the first version
        if isinstance(error, OSError):
            # shutil.Error lists (source, copy, reason) of every file.
            listed = isinstance(error, shutil.Error)
            reason = error.args[0][0][2] if listed else error
            raise UsageError(
                f"Copying {size / _MEGABYTE:,.1f} MB to {target} failed: {reason}. "
                f"Nothing was published."
            ) from error
        raise


@contextmanager
def watched(progress: Progress, folder: Path, size: int) -> Iterator[None]:
    """Show how many of `size` bytes have arrived in `folder` until the block ends."""
    task = progress.add_task("Copying, MB", total=size // _MEGABYTE)
    done = Event()

    def follow() -> None:
        while not done.wait(0.3):
            with suppress(OSError):  # a file that was there a moment ago
                arrived = sum(file.stat().st_size for file in folder.rglob("*"))
                progress.update(task, completed=arrived // _MEGABYTE)

    thread = Thread(target=follow)
    thread.start()
    try:
        yield
        progress.update(task, completed=size // _MEGABYTE)
    finally:
        done.set()
        thread.join()
