"""Progress in a log: plain lines instead of bars."""

import io
import re
import time

from rich.console import Console

from isogon.cli import console
from isogon.cli.console import LoggedProgress


def written(*, every: float, seconds: float, total: int | None) -> str:
    log = io.StringIO()
    with LoggedProgress(console=Console(file=log, width=40), every=every) as progress:
        task = progress.add_task("Distilling, loss 0.123", total=total)
        progress.advance(task, 3)
        time.sleep(seconds)
    return log.getvalue()


def test_a_log_has_a_plain_line_from_time_to_time() -> None:
    lines = written(every=0.05, seconds=0.3, total=1500).splitlines()
    assert 3 <= len(lines) <= 8
    for line in lines:
        assert re.fullmatch(
            r"Distilling, loss 0\.123: 3/1,500, 0 s(, about .* left)?", line
        )


def test_items_that_are_tracked_are_counted_one_by_one() -> None:
    log = io.StringIO()
    with LoggedProgress(console=Console(file=log), every=0.05) as progress:
        for _ in progress.track(range(5), description="Reading images"):
            time.sleep(0.1)
    counts = [int(line.split()[2].split("/")[0]) for line in log.getvalue().splitlines()]
    assert counts == sorted(counts)
    assert {1, 2, 3} <= set(counts) and counts[-1] == 5


def test_a_short_run_writes_its_end_alone() -> None:
    assert written(every=60, seconds=0, total=3) == "Distilling, loss 0.123: 3/3, 0 s\n"


def test_a_finished_task_takes_no_longer_until_the_run_ends() -> None:
    assert written(every=60, seconds=1.6, total=3) == "Distilling, loss 0.123: 3/3, 0 s\n"


def test_work_without_a_known_length_and_between_tasks_is_shown() -> None:
    assert "Distilling, loss 0.123: 0 s\n" in written(every=0.05, seconds=0.2, total=None)
    assert "At work for 0 s\n" in written(every=0.05, seconds=0.2, total=3)


def test_without_a_terminal_every_command_has_the_lines() -> None:
    assert not console.aside.is_terminal  # pytest's capture is none
    assert isinstance(console.progress(), LoggedProgress)
    assert isinstance(console.progress(rate=True), LoggedProgress)
