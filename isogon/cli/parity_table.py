"""A parity report as a table."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from isogon.parity import ParityReport


def parity_table(report: "ParityReport") -> Table:
    """Return every figure of a report beside its bound."""
    table = titled(f"{report.artifact} on {report.candidate}", "", "seen", "bound", "")
    for check in report.checks:
        mark = Text("ok", "green") if check else Text("broken", "bold red")
        name = check.name.replace("_", " ")
        add_row(table, name, check.shown, f"{check.sign} {check.bound:.8g}", mark)
    sizes = ", ".join(map(str, report.batch_sizes))
    add_row(table, "comparisons", f"{report.figures.images:,}", "> 0", f"batches {sizes}")
    return table


def parity(report: "ParityReport") -> None:
    """Print a parity report that passed."""
    out.print(parity_table(report))
