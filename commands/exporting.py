"""`isogon export` and `isogon verify`: artifacts, and the proof of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import console
from commands.options import AsJson, BundlePath

if TYPE_CHECKING:
    from bundle import ParityReport


def export(
    bundle: BundlePath,
    images: Annotated[
        Path | None,
        typer.Option(
            help="More real images to compare on, beside the bundle's own.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write ONNX with normalisation and OOD detector inside; gate it by parity.

    The file is compared with eager float32 torch on real images at batch sizes 1, 2
    and 7. It enters the bundle only if every bound holds; otherwise the exit status
    is 1 and the bundle stays as it was.
    """
    from bundle import Bundle, ImageFolder

    opened = Bundle.open(bundle, rewriting=["export"])
    with console.progress() as progress:
        with console.loading(progress):
            from export import export_onnx
        extra = None
        if images is not None:
            folder = ImageFolder.list(images)
            usable = folder.readable(progress)
            extra = folder.pixels(usable, opened.manifest.preprocessing, progress)
        report = export_onnx(opened, progress, extra=extra)
    print_report(report, as_json)


def verify(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Check every hash and repeat every parity claim, on this machine.

    Run it after moving a bundle, or after upgrading Isogon, torch or ONNX Runtime.
    """
    from bundle import Bundle

    opened = Bundle.open(bundle)
    with console.progress() as progress:
        with console.loading(progress):
            from export import verify as run
        report = run(opened, progress)
    print_report(report, as_json)


def print_report(report: "ParityReport", as_json: bool) -> None:
    """Print a parity report that passed, as a table or as JSON."""
    if as_json:
        console.as_json(report.model_dump(mode="json"))
    else:
        console.parity(report)
