"""`isogon calibrate`: fit the OOD detector again, on images of the site."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from isogon.cli import console
from isogon.cli.exporting import exported_document, show_exported
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import STYLE, add_detector

if TYPE_CHECKING:
    from export import Detection
    from isogon.bundle import DetectorInForce


def calibrate(
    bundle: BundlePath,
    images: Annotated[
        Path,
        typer.Option(help="A folder of familiar (in-distribution) images of the site."),
    ],
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="`name` of [ood] in a recipe (recipes/keys.md lists them). Without it: "
            "the recipe's. Most detectors need one folder of images per class.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="knn: the score is the distance to the k-th neighbour; nnguide: the "
            "number of neighbours.",
            min=1,
            show_default=False,
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            help="Dimension of the principal subspace (residual, vim). Without it: half "
            "the embedding dimension.",
            min=1,
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="False-alarm rate: the share of familiar images that may be flagged.",
            min=1e-4,
            max=0.5,
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Images that the new detector should flag; the command reports how many "
            "it does. Without it: those that the bundle keeps from training.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the OOD detector again, on images of the place where the model will run.

    Most of the images become the detector's bank. The others calibrate the p-values.
    Every ONNX file of the bundle is then exported and checked for parity again, which
    takes as long as the first export. TensorRT engines are removed: build them again.
    """
    from isogon import api
    from isogon.bundle import Bundle, DetectorInForce
    from isogon.images import open_images

    if unfamiliar is not None:
        open_images(unfamiliar)  # report a bad source before any work
    with console.progress() as progress:
        exported = api.calibrate(
            bundle,
            images=images,
            detector=detector,
            k=k,
            dim=dim,
            alpha=alpha,
            check=False,  # the reports are shown before a failure is raised
            progress=progress,
        )
        from export.calibration import detection

        opened = Bundle.open(bundle)
        detects = detection(opened, progress, unfamiliar=unfamiliar)
    found = DetectorInForce.of(opened)
    if as_json:
        document = {
            "detector": found.model_dump(mode="json"),
            "detection": None if detects is None else detects.as_document(),
        }
        console.as_json(exported_document(exported) | document)
    else:
        show_exported(opened, exported)
        show_detector(found, detects)
    exported.require()


def show_detector(found: "DetectorInForce", detects: "Detection | None") -> None:
    """Print which detector is in force, what it was fitted on, and how well it detects."""
    table = Table(title="Detector in force", show_header=False, **STYLE)
    add_detector(table, found)
    console.out.print(table)
    if detects is None:
        console.note(
            "The bundle keeps no unfamiliar images. Name some with --unfamiliar to measure "
            "how many the detector flags."
        )
    else:
        console.out.print(detects.sentence, markup=False, soft_wrap=True)
