"""Progress where no terminal shows bars: a plain line every half minute, and the end."""

import threading
import time

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task

_SILENCE = 30.0  # seconds


class LoggedProgress(Progress):
    """Bars told in words, so that a log shows what a run does and how far it is."""

    def __init__(
        self, *columns: ProgressColumn, console: Console, every: float = _SILENCE
    ) -> None:
        """Set up the lines.

        Args:
            columns: those of the bars; a line has no use for them.
            console: where to write.
            every: seconds between two lines.
        """
        # `track` counts each item only where nothing refreshes by itself.
        super().__init__(*columns, console=console, disable=True, auto_refresh=False)
        self._every = every
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write lines."""
        self._began = time.monotonic()
        self._ended.clear()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what each part took, and no more."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        for task in self.tasks:
            self._say(_told(task))

    def _write(self) -> None:
        while not self._ended.wait(self._every):
            at_work = [_told(task) for task in self.tasks if not task.finished]
            # Between two tasks there is work without a progress bar.
            line = "; ".join(at_work) or f"At work for {_spoken(self._elapsed())}"
            self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _told(task: Task) -> str:
    spent = _spoken(task.elapsed or 0.0)
    if task.total is None:
        return f"{task.description}: {spent}"
    left = None if task.finished else task.time_remaining
    ends = "" if left is None else f", about {_spoken(left)} left"
    return f"{task.description}: {task.completed:,.0f}/{task.total:,.0f}, {spent}{ends}"


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
