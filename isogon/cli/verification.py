"""`isogon verify`: check a bundle's hashes and parity claims again.

With --judge, a saved parity run is judged by other bounds; with --diverge, a graph is
compared with the float32 reference layer by layer.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson, Bounds, MoreImages
from isogon.cli.tables import add_row, parity_table, titled
from isogon.stage_imports import load_stage

if TYPE_CHECKING:
    from export import Divergence, Verified
    from isogon.errors import UsageError


def verify(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="A bundle's directory; not with --judge.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Judge a saved parity run by other bounds; nothing is run or changed. "
            "RUN: parity/ARTIFACT.safetensors in a bundle, or beside a rejected artifact.",
            show_default=False,
        ),
    ] = None,
    diverge: Annotated[
        Path | None,
        typer.Option(
            metavar="ARTIFACT",
            help="Name the first layer at which an ONNX file differs from the float32 "
            "reference. ARTIFACT: a name inside the bundle, or the path of a rejected "
            "file. --bound is then the relative error from which a node counts.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="With --diverge: where to draw the error by depth (.svg or .png). "
            "Without it: diverge-ARTIFACT.svg.",
            show_default=False,
        ),
    ] = None,
    vouch: Annotated[
        bool,
        typer.Option(
            "--vouch",
            help="Also check engines that were only built (`isogon export --build-only`), "
            "and add those that pass on this machine.",
        ),
    ] = False,
    bound: Bounds = None,
    images: MoreImages = None,
    as_json: AsJson = False,
) -> None:
    """Check every hash and every parity claim again, on this machine.

    Run it after moving a bundle, or after upgrading Isogon, torch, ONNX Runtime or
    TensorRT. Engines for another GPU are skipped and named. Each artifact is checked
    against the bounds it was exported with; --bound is only for engines that --vouch adds.

    `isogon verify --judge RUN --bound int8.min_cosine=0.98` judges a saved run again.
    `isogon verify BUNDLE --diverge onnx/model.fp16.onnx` compares every node of a graph
    with a new float32 export of the same student, on real images.

    Exit status 1 if a claim does not hold, a bound is broken or a node exceeds its bound.
    """
    if judge is not None:
        given = {"BUNDLE": bundle, "--diverge": diverge, "--plot": plot}
        _require_none(given | {"--vouch": vouch, "--images": images}, beside="--judge")
        _judge(judge, bound or [], as_json=as_json)
        return
    if bundle is None:
        raise _wrong("Expected BUNDLE, or --judge RUN. See `isogon verify --help`.")
    if diverge is not None:
        _require_none({"--vouch": vouch, "--images": images}, beside="--diverge")
        _diverge(bundle, diverge, bound or [], plot, as_json=as_json)
        return
    if plot is not None:
        raise _wrong("--plot is only for --diverge. Leave it out.")
    _verify(bundle, vouch, bound or [], images, as_json=as_json)


def judge(context: typer.Context) -> None:
    """Name the command that replaces this one."""
    given = shlex.join(context.args) or "RUN"
    raise _wrong(
        f"`isogon judge` is now an option of `isogon verify`: isogon verify --judge {given}"
    )


def diverge(context: typer.Context) -> None:
    """Name the command that replaces this one."""
    bundle, *rest = context.args or ["BUNDLE", "ARTIFACT"]
    given = shlex.join([bundle, "--diverge", *(rest or ["ARTIFACT"])])
    raise _wrong(f"`isogon diverge` is now an option: isogon verify {given}")


def show_verified(found: "Verified") -> None:
    """Print the parity of the artifacts that hold, name the others, then the verdict."""
    for report in found.reports:
        out.print(parity_table(report))
    for name, reason in found.skipped.items():
        note(f"{name} was skipped: {reason}")
    for fault in found.faults[1:]:  # the first one ends the command
        note(str(fault))
    out.print(_verdict(found), markup=False, soft_wrap=True)


def show_divergence(found: "Divergence", plot: Path) -> None:
    """Print the nodes around the first that diverges, and the conclusion."""
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


def _verify(
    bundle: Path, vouch: bool, bounds: list[str], images: str | None, *, as_json: bool
) -> None:
    from isogon import api

    with console.progress() as progress:
        verified = api.verify(
            bundle,
            vouch=vouch,
            bounds=bounds,
            images=images,
            check=False,  # the reports are shown before a failure is raised
            progress=progress,
        )
    if as_json:
        console.as_json(
            {
                "reports": [report.model_dump(mode="json") for report in verified.reports],
                "faults": [str(fault) for fault in verified.faults],
                "skipped": dict(verified.skipped),
            }
        )
    else:
        show_verified(verified)
    verified.require()


def _judge(run: Path, bounds: list[str], *, as_json: bool) -> None:
    from isogon import api

    report = api.judge(run, bounds=bounds)
    if as_json:
        console.as_json(report.model_dump(mode="json"))
    if not report:
        load_stage("export.parity", extra="export")
        from export.parity import ParityFailedError

        raise ParityFailedError(report, "Nothing was changed.")
    if not as_json:
        out.print(parity_table(report))


def _diverge(
    bundle: Path, artifact: Path, bounds: list[str], plot: Path | None, *, as_json: bool
) -> None:
    from isogon import api

    drawn = plot or Path(f"diverge-{artifact.stem}.svg")
    if drawn.suffix not in (".svg", ".png") or not drawn.absolute().parent.is_dir():
        raise _wrong(
            f"Expected --plot as a .svg or .png file in a folder that exists, got {drawn}."
        )
    bound = _number(bounds)
    with console.progress() as progress:
        found = api.diverge(bundle, artifact, bound=bound, progress=progress)
        from export.divergence.node_errors import draw

        draw(found, drawn)
    if as_json:
        told = {
            "first": found.first and found.first.name,
            "only_when_fused": found.only_when_fused,
            "told": str(found),
        }
        console.as_json(told | found.model_dump(mode="json"))
    else:
        show_divergence(found, drawn)
    if found.first is not None or found.only_when_fused:
        raise typer.Exit(1)


def _verdict(found: "Verified") -> str:
    """Return the result of `isogon verify` in one sentence."""
    tried = len(found.reports) + len(found.faults)
    skipped = f", {len(found.skipped)} skipped" if found.skipped else ""
    if found:
        return (
            f"Verified: every file has its hash, and {tried} of {tried} artifacts match "
            f"their reports{skipped}."
        )
    return (
        f"NOT verified: {len(found.faults)} of {tried} artifacts do not match "
        f"their reports{skipped}."
    )


def _number(bounds: list[str]) -> float | None:
    """Return the one bound of --diverge, a relative error above 0."""
    if not bounds:
        return None
    try:
        (bound,) = map(float, bounds)
    except ValueError:
        bound = 0.0
    if not 1e-12 <= bound < float("inf"):
        raise _wrong(
            f"With --diverge, --bound is one number of at least 1e-12, such as 0.01; got "
            f"{' '.join(bounds)}."
        )
    return bound


def _require_none(given: dict[str, object], *, beside: str) -> None:
    for name, value in given.items():
        if value:
            raise _wrong(f"{name} cannot be combined with {beside}. Leave it out.")


def _wrong(message: str) -> "UsageError":
    from isogon.errors import UsageError

    return UsageError(message)
