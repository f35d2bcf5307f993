"""The command line, `isogon`: one module of this package per command or pair of them.

Results go to stdout, progress to stderr. Exit status: 0 done; 1 a check failed; 2 wrong
usage, a bad bundle, or a lost process or node. Each command imports its stage when it
runs, so `--help` is instant and `serve` never loads torch.
"""

import contextlib
import errno
import json
import os
import signal
import sys
import time
from io import TextIOWrapper
from pathlib import Path

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
from isogon.errors import IsogonError, ProcessError, at_command_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Distil a vision model into a small student that keeps its angles, export it
with proof, and serve embeddings with calibrated out-of-distribution (OOD) scores.

Start with `isogon quickstart`. Everything a run makes is in one directory, the *bundle*:
`distill` makes it, `export` and `calibrate` add to it, `serve` and `embed` use it.""",
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

# Commands of earlier versions: each prints its new name.
for former in (judge, diverge):
    app.command(
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(former)


def main() -> None:
    """Run the command line. Print an expected error as one message, without a traceback."""
    # OpenMP threads that wait spin briefly, then sleep. By default they spin longer: with
    # one other process on two cores, a training step is then up to 20 times slower.
    # OpenMP reads this when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # If a process of a run is lost, torch adds a trace of C++ to the errors that say so.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
            signal.signal(ending, lambda number, _: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):  # print `?` for what it cannot encode
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with at_command_line():
            app(prog_name="isogon")
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # `| head` has closed the pipe
            sys.exit(128 + signal.SIGPIPE)
        raise
    except Exception as error:
        if isinstance(error, IsogonError):
            failure(error)
            sys.exit(error.exit_code)
        if isinstance(error, OSError):
            failure(error)
            sys.exit(2)
        raise


def failure(error: Exception) -> None:
    """Print the error; for a failed parity check, its table first."""
    report = getattr(error, "report", None)
    if report is not None:
        err.print(parity_table(report))
    # Every process has the same error, so only the first prints it; a `ProcessError` is
    # of one process, which prints it itself.
    shown = err if isinstance(error, ProcessError) else aside
    shown.print("[bold red]Error[/]", end=" ")
    shown.print(_message(error), markup=False, soft_wrap=True)
    _report_to_torchrun(error)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        file = f": {error.filename} cannot be written" if error.filename else ""
        return (
            f"The disk is full{file}. Nothing that was complete is lost. Make room, then "
            f"run this again."
        )
    return str(error)


def _report_to_torchrun(error: Exception) -> None:
    """Give torchrun the error for its own report, which follows ours.

    torchrun prints a traceback whenever a process fails; nothing here can prevent that.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        return
    told = {"message": str(error), "extraInfo": {"timestamp": str(int(time.time()))}}
    with contextlib.suppress(OSError):
        Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")


if __name__ == "__main__":
    main()
