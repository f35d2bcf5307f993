"""`isogon diverge`: the first layer at which an artifact leaves the reference."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.options import AsJson, BundlePath


def diverge(
    bundle: BundlePath,
    artifact: Annotated[
        Path,
        typer.Argument(
            metavar="ARTIFACT",
            help="An ONNX file: a name inside the bundle, such as onnx/model.fp16.onnx, "
            "or the path of one that was rejected.",
        ),
    ],
    bound: Annotated[
        float | None,
        typer.Option(
            min=1e-12,
            help="Relative error from which a node counts as diverging. Without it: what "
            "the precision usually shows.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Where to draw the error by depth (.svg or .png). Without it: "
            "diverge-ARTIFACT.svg.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name the first layer at which an artifact leaves the reference, and draw the error.

    Every node's output is compared, along the graph, with that of the student exported
    afresh in float32, on real images. Exit status 1 if a node leaves the bound.
    """
    from isogon.bundle import Bundle
    from isogon.errors import UsageError

    drawn = plot or Path(f"diverge-{artifact.stem}.svg")
    if drawn.suffix not in (".svg", ".png") or not drawn.absolute().parent.is_dir():
        raise UsageError(
            f"Expected --plot as a .svg or .png file in a folder that exists, got {drawn}."
        )
    opened = Bundle.open(bundle)
    with console.progress() as progress:
        with console.loading(progress, extra="export"):
            from export import divergence_of
            from export.divergence.plot import draw
        found = divergence_of(opened, artifact, progress, bound=bound)
        draw(found, drawn)
    if as_json:
        first = found.first and found.first.name
        told = {
            "first": first,
            "only_when_fused": found.only_when_fused,
            "told": str(found),
        }
        console.as_json(told | found.model_dump(mode="json"))
    else:
        console.divergence(found, drawn)
    if found.first is not None or found.only_when_fused:
        raise typer.Exit(1)
