"""Tables whose cells are shown as they are."""

from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

STYLE: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "min_width": 60}


def titled(title: str, *columns: str) -> Table:
    """Return an empty table; its first column is left-aligned, the others right."""
    table = Table(title=escape(title), **STYLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def add_row(table: Table, *cells: str | Text) -> None:
    """Add a row whose strings are shown as they are, never read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def figure_cell(value: float | None, *, best: bool = False) -> Text:
    """Return a figure of three decimals, bold where it is the best; None is empty."""
    return Text("" if value is None else f"{value:.3f}", "bold" if best else "")
