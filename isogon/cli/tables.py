"""Tables that several commands print. Cells are plain text, never read as markup."""

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from isogon.bundle import DetectorInForce
    from isogon.parity import ParityReport


STYLE: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "min_width": 60}


def titled(title: str, *columns: str) -> Table:
    """Return an empty table: the first column left-aligned, the others right-aligned."""
    table = Table(title=escape(title), **STYLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    """Add a row. Strings are plain text, never read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def figure_cell(value: float | None, *, best: bool = False) -> Text:
    """Return the figure to three decimals, bold if it is the best; empty for None."""
    return Text("" if value is None else f"{value:.3f}", "bold" if best else "")


def add_detector(table: Table, found: "DetectorInForce") -> None:
    """Add rows: which detector is in force, what it was fitted on, its bank and rate."""
    spec = found.spec
    settings = {"k": spec.k, "dim": spec.dim}
    given = [f"{name} = {value}" for name, value in settings.items() if value is not None]
    add_row(table, "detector", ", ".join([spec.name, *given]))
    where = "at the site" if found.fitted == "site" else "in training"
    add_row(table, "fitted", where + (f", on {found.images}" if found.images else ""))
    if found.bank is not None:
        reduced = found.reduced_bank
        rest = "" if reduced is None else f", reduced to {reduced:,} vectors"
        add_row(table, "images in its bank", f"{found.bank:,}{rest}")
    add_row(table, "images that calibrate", f"{found.calibration:,}")
    add_row(table, "false-alarm rate, alpha", f"{spec.alpha:g}")


def parity_table(report: "ParityReport") -> Table:
    """Return every figure of a parity report beside its bound."""
    table = titled(f"{report.artifact} on {report.candidate}", "", "seen", "bound", "")
    for check in report.checks:
        mark = Text("ok", "green") if check else Text("broken", "bold red")
        name = check.name.replace("_", " ")
        add_row(table, name, check.shown, f"{check.sign} {check.bound:.8g}", mark)
    sizes = ", ".join(map(str, report.batch_sizes))
    add_row(table, "comparisons", f"{report.figures.images:,}", "> 0", f"batches {sizes}")
    return table
