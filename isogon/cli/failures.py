"""What the command line says when something went wrong."""

from isogon.cli.parity_table import parity_table
from isogon.cli.terminal import aside, err


def failure(error: Exception) -> None:
    """Say what went wrong, the table of a failed gate first."""
    from isogon.errors import ProcessError

    report = getattr(error, "report", None)
    if report is not None:
        err.print(parity_table(report))
    # An error of all processes is printed by the first; other errors by each process.
    console = err if isinstance(error, ProcessError) else aside
    console.print("[bold red]Error[/]", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
