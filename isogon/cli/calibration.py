"""`isogon calibrate`: the detector of the place where the model runs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from isogon.cli import console
from isogon.cli.exporting import exported_document
from isogon.cli.options import AsJson, BundlePath


def calibrate(
    bundle: BundlePath,
    images: Annotated[
        Path, typer.Option(help="A folder of images that are familiar at the site.")
    ],
    detector: Annotated[
        Literal[
            "knn",
            "mahalanobis",
            "relative_mahalanobis",
            "residual",
            "vim",
            "msp",
            "max_logit",
            "energy",
            "gen",
            "she",
            "nnguide",
        ]
        | None,
        typer.Option(
            help="Without it: the recipe's. All but knn, mahalanobis and residual need "
            "the images in folders by class.",
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
    from isogon.bundle import TRAINING_DETECTOR, Bundle, DetectorInForce, detector_spec
    from isogon.images import open_images

    if unfamiliar is not None:
        open_images(unfamiliar)  # what is wrong with it is said before any work
    opened = Bundle.open(bundle, rewriting=["calibrate", "export"])
    asked = {"name": detector, "k": k, "dim": dim, "alpha": alpha}
    given: dict[str, Any] = {
        key: value for key, value in asked.items() if value is not None
    }
    spec = detector_spec(opened, TRAINING_DETECTOR)
    if detector not in (None, spec.name):  # k and dim are another's
        given = {"k": None, "dim": None} | given
    spec = spec.model_copy(update=given)
    if k is not None or dim is not None:
        spec.require_read()
    with console.progress() as progress:
        with console.loading(progress, extra="export"):
            from export import calibrate as run, detection
        exported = run(opened, images, progress, spec=spec)
        detects = detection(opened, progress, unfamiliar=unfamiliar)
    found = DetectorInForce.of(opened)
    if as_json:
        document = {
            "detector": found.model_dump(mode="json"),
            "detection": None if detects is None else detects.as_document(),
        }
        console.as_json(exported_document(exported) | document)
    else:
        console.exported(opened, exported)
        console.detector(found, detects)
    exported.require()
