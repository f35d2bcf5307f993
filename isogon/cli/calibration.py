"""`isogon calibrate`: the detector of the place where the model runs."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.exporting import exported_document, show_exported
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import show_detector


def calibrate(
    bundle: BundlePath,
    images: Annotated[
        Path, typer.Option(help="A folder of images that are familiar at the site.")
    ],
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="`name` of [ood] in a recipe (recipes/keys.md lists them). Without it: "
            "the recipe's. Most need the images in folders by class.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Which neighbour counts (knn), or how many do (nnguide).",
            min=1,
            show_default=False,
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            help="Dimension of the principal subspace (residual, vim). Without it: half "
            "the embedding's width.",
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
            help="Images that the new detector should flag, to say how many it does. "
            "Without it: those that the bundle keeps from training.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Refit the OOD detector on the images of the place where the model will run.

    Most of them become the detector's bank; the rest, unseen by it, calibrate the
    p-values. Every ONNX file of the bundle is exported again with the new detector, and
    gated, which takes as long as it took; engines are withdrawn: build them again.
    """
    from isogon import api
    from isogon.api.proving import site_detector
    from isogon.bundle import Bundle, DetectorInForce
    from isogon.images import open_images

    if unfamiliar is not None:
        open_images(unfamiliar)  # what is wrong with it is said before any work
    opened = Bundle.open(bundle, rewriting=["calibrate", "export"])
    # What is wrong is said before torch is loaded.
    site_detector(opened, detector=detector, k=k, dim=dim, alpha=alpha)
    with console.progress() as progress:
        with console.loading(progress, extra="export"):
            from export import detection
        exported = api.calibrate(
            opened,
            images=images,
            detector=detector,
            k=k,
            dim=dim,
            alpha=alpha,
            check=False,  # what failed is shown first
            progress=progress,
        )
        opened = Bundle.open(bundle)  # as it is now
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
