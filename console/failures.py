"""What the command line says when something went wrong."""

from console.parity_table import parity_table
from console.terminal import aside, err


def failure(error: Exception) -> None:
    """Say what went wrong, the table of a failed gate first."""
    report = getattr(error, "report", None)
    if report is not None:
        err.print(parity_table(report))
    aside.print("[bold red]Error[/]", end=" ")
    aside.print(str(error), markup=False, soft_wrap=True)
