"""Where an artifact leaves the reference, as a table."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from export import Divergence


def divergence(found: "Divergence", plot: Path) -> None:
    """Print the nodes around the first that diverges, and what that means."""
    table = titled("Error by depth", "node", "module", "error", "of its inputs")
    table.columns[1].justify, table.columns[1].overflow = "left", "fold"
    for node in found.around_first():
        style = "bold red" if node == found.first else ""
        add_row(
            table,
            Text(f"{node.name} ({node.op_type})", style),
            Text(node.module, style),
            Text(f"{node.error:.2e}", style),
            Text(f"{node.input_error:.2e}", style),
        )
    out.print(table)
    out.print(
        f"{found}\nThe error by depth is drawn in {plot}.", markup=False, soft_wrap=True
    )
