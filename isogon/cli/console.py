"""Output of every command: results on stdout; progress, notes and errors on stderr.

In a terminal, progress is bars. Elsewhere, as in a log file, it is plain lines.
"""

import json
import math
import os
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SILENCE = 30.0  # seconds between two lines in a log

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

# In a run of several processes, only the first prints.
_follower = os.environ.get("LOCAL_RANK", "0") != "0"
aside = Console(stderr=True, highlight=False, emoji=False, quiet=_follower)


def progress(*, rate: bool = False) -> Progress:
    """Return progress bars with the work done, the time spent and the time left.

    If stderr is not a terminal, return `LoggedProgress`: a plain line every 30 seconds.

    Args:
        rate: also show the speed.
    """
    if not aside.is_terminal or aside.is_dumb_terminal:
        return LoggedProgress(console=aside)
    return Progress(
        TextColumn("{task.description:32}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        *([_Rate()] if rate else []),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=aside,
        refresh_per_second=2,  # a refresh costs a millisecond of training time
    )


def note(text: str) -> None:
    """Print a sentence that is not a result, on stderr."""
    aside.print(text, markup=False, soft_wrap=True)


def as_json(document: Any) -> None:
    """Print a result as JSON. NaN and infinity become null, since JSON has neither."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


class LoggedProgress(Progress):
    """Progress as plain lines, so that a log shows what a run does and how far it is."""

    def __init__(
        self, *columns: ProgressColumn, console: Console, every: float = _SILENCE
    ) -> None:
        """Set up the lines.

        Args:
            columns: accepted as Rich's class does, and not used.
            console: where to write.
            every: seconds between two lines.
        """
        # Without automatic refresh, `track` counts each item as it is taken.
        super().__init__(*columns, console=console, disable=True, auto_refresh=False)
        self._every = every
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start writing lines."""
        self._began = time.monotonic()
        self._ended.clear()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and write how long each task took."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        for task in self.tasks:
            self._say(_line_of(task))

    def _write(self) -> None:
        while not self._ended.wait(self._every):
            at_work = [_line_of(task) for task in self.tasks if not task.finished]
            # Between two tasks there may be work without a task.
            line = "; ".join(at_work) or f"At work for {_duration(self._elapsed())}"
            self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


class _Rate(ProgressColumn):
    """The recent speed."""

    def render(self, task: Task) -> Text:
        """Return steps per second; empty while unknown."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", no_wrap=True)


def _line_of(task: Task) -> str:
    # `elapsed` of a finished task grows on until the whole run ends.
    spent = _duration((task.finished_time if task.finished else task.elapsed) or 0.0)
    if task.total is None:
        return f"{task.description}: {spent}"
    left = None if task.finished else task.time_remaining
    ends = "" if left is None else f", about {_duration(left)} left"
    return f"{task.description}: {task.completed:,.0f}/{task.total:,.0f}, {spent}{ends}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _finite(document: Any) -> Any:
    match document:
        case float() if not math.isfinite(document):
            return None
        case dict():
            return {key: _finite(value) for key, value in document.items()}
        case list() | tuple():
            return [_finite(value) for value in document]
    return document
