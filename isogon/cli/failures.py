"""What the command line says when something went wrong."""

from isogon.cli.parity_table import parity_table
from isogon.cli.terminal import aside, err


def failure(error: Exception) -> None:
    """Say what went wrong, the table of a failed gate first."""
    from isogon.errors import ProcessError

    report = getattr(error, "report", None)
    if report is not None:
        err.print(parity_table(report))
    # What all processes of a run meet the first of them says, the rest each for itself.
    console = err if isinstance(error, ProcessError) else aside
    console.print("[bold red]Error[/]", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
