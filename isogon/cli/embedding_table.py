"""What a run of bulk embedding did, as a table."""

from typing import TYPE_CHECKING

from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import note, out

if TYPE_CHECKING:
    from isogon.bulk import Summary


def embedded(summary: "Summary") -> None:
    """Print the figures of a run, and where the unreadable images are listed."""
    table = titled(str(summary.output), "", "")
    table.show_header = False
    add_row(table, "images", f"{summary.images:,}")
    if summary.continued:
        add_row(table, "done by an earlier start", f"{summary.continued:,}")
    add_row(table, f"embedded, width {summary.width}", f"{summary.embedded:,}")
    flagged = f"{summary.flagged:,}"
    if summary.embedded:
        flagged += f" ({summary.flagged / summary.embedded:.1%})"
    add_row(table, f"unfamiliar, p at most {summary.alpha:g}", flagged)
    add_row(table, "unreadable", f"{summary.unreadable:,}")
    if summary.passed_over:
        add_row(table, "passed over: hidden, or no images", f"{summary.passed_over:,}")
    if summary.images_per_second is not None:
        add_row(table, "images per second", f"{summary.images_per_second:,.0f}")
    add_row(table, "runner", summary.runner)
    add_row(table, "artifact", f"{summary.fingerprint[:12]}…")
    out.print(table)
    if summary.unreadable_list is not None:
        note(f"What could not be read, and why: {summary.unreadable_list}")
