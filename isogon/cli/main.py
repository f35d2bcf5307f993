"""The command line: `isogon/cli/` knows every stage, one module per command or pair.

Results go to stdout, progress to stderr. Exit status: 0 done, 1 a check failed, 2 wrong
usage, a bad bundle, or a process or node that was lost. A stage is imported inside its
command, so that `--help` is instant and `serve` never loads torch.
"""

import os
import signal
import sys
from io import TextIOWrapper

import typer

from isogon.cli.calibration import calibrate
from isogon.cli.console import aside, err
from isogon.cli.distillation import distill
from isogon.cli.embedding import embed
from isogon.cli.evaluation import compare, evaluate
from isogon.cli.exporting import export
from isogon.cli.inspection import card, inspect
from isogon.cli.publishing import publish, pull, push
from isogon.cli.quickstart import quickstart
from isogon.cli.recipe import recipe
from isogon.cli.running import run
from isogon.cli.serving import serve
from isogon.cli.tables import parity_table
from isogon.cli.verification import diverge, judge, verify

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Distil a vision model into a small student that keeps its angles, export it
with proof, and serve embeddings with calibrated out-of-distribution (OOD) scores.

Start with `isogon quickstart`. Everything a run makes is one directory, the *bundle*:
`distill` makes it, `export` and `calibrate` add to it, `serve` and `embed` answer from
it.""",
)

for command in (
    quickstart,
    recipe,
    distill,
    evaluate,
    compare,
    export,
    verify,
    calibrate,
    inspect,
    card,
    run,
    serve,
    publish,
    push,
    pull,
    embed,
):
    app.command()(command)
# Names of earlier versions, which say what they are called now.
for former in (judge, diverge):
    app.command(
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(former)


def main() -> None:
    """Run the command line; say what went wrong in the words of the error."""
    # Waiting threads spin a little, then sleep: beside one other process on two cores a
    # training step is otherwise up to 20 times slower. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as `nohup` leaves SIGHUP
            signal.signal(ending, lambda number, _: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):  # what it cannot write is a `?`
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="isogon")
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # no check: `| head` had enough
            sys.exit(128 + signal.SIGPIPE)
        raise
    except Exception as error:
        from isogon.errors import IsogonError

        if isinstance(error, IsogonError):
            failure(error)
            sys.exit(error.exit_code)
        if isinstance(error, OSError):
            failure(error)
            sys.exit(2)
        raise


def failure(error: Exception) -> None:
    """Say what went wrong, the table of a failed gate first."""
    from isogon.errors import ProcessError

    report = getattr(error, "report", None)
    if report is not None:
        err.print(parity_table(report))
    # An error of all processes is printed by the first; other errors by each process.
    shown = err if isinstance(error, ProcessError) else aside
    shown.print("[bold red]Error[/]", end=" ")
    shown.print(str(error), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
