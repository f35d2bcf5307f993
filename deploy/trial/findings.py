"""The findings of a trial, written as a dated table into docs/deployed.md."""

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "deployed.md"
_PASSED = {True: "yes", False: "**NO**"}


@dataclass
class TrialRow:
    """One promise: what was tried, what was seen, and whether the promise held."""

    what: str
    seen: str = "not reached"
    held: bool = False
    seconds: float = 0.0


@dataclass
class Findings:
    """The rows of one trial, in the order in which they were tried."""

    name: str  # of the command, such as "make cluster"
    facts: list[str] = field(default_factory=list)  # versions and sizes
    rows: list[TrialRow] = field(default_factory=list)

    @contextmanager
    def trying(self, what: str) -> Iterator[TrialRow]:
        """Yield a row to fill in; an exception is written into it and suppressed."""
        row = TrialRow(what)
        self.rows.append(row)
        started = time.monotonic()
        print(f"{what} …", file=sys.stderr, flush=True)
        try:
            yield row
        except Exception as error:
            row.held = False
            row.seen = _in_a_cell(f"{type(error).__name__}: {error}")
        row.seconds = time.monotonic() - started
        print(f"  {_PASSED[row.held]}: {row.seen}", file=sys.stderr, flush=True)

    def write(self) -> None:
        """Replace the table of the same command."""
        page = _PAGE.read_text()
        start, end = f"<!-- {self.name} -->\n", f"<!-- /{self.name} -->\n"
        pattern = re.escape(start) + ".*?" + re.escape(end)
        written = f"{start}{self._table()}{end}"
        page, count = re.subn(pattern, lambda _: written, page, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"Expected {start.strip()} and its end once in {_PAGE}.")
        _PAGE.write_text(page)
        print(f"Written to {_PAGE}", file=sys.stderr)

    def _table(self) -> str:
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        machine = f"{os.cpu_count()} CPUs, Linux {platform.release().partition('-')[0]}"
        lines = [
            f"{when}, {machine}; load average {os.getloadavg()[1]:.0f} at the end.",
            *self.facts,
            "",
            "| what | held | seen | s |",
            "|---|---|---|---|",
            *(
                f"| {row.what} | {_PASSED[row.held]} | {row.seen} | {row.seconds:.0f} |"
                for row in self.rows
            ),
        ]
        return "\n".join(lines) + "\n"


def _in_a_cell(text: str) -> str:
    """Return a text for a cell of the table: one line, at most 300 characters."""
    return " ".join(text.replace("|", "/").split())[:300]
