"""`isogon evaluate` and `isogon compare`: what students are worth."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from isogon.cli import console
from isogon.cli.options import AsJson, BundlePath

if TYPE_CHECKING:
    from distill.evaluation import Kind


def evaluate(
    bundle: BundlePath,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the familiar images are now. Without it: where the recipe says.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the images to test on are, if they are a source of their own.",
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:near|far]=SOURCE",
            help="Where a set of unfamiliar images is; a new name adds a set. May be "
            "given several times.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        bool,
        typer.Option(
            help="Evaluate the teacher beside the student. Without its weights: "
            "--no-teacher, which leaves out fidelity too."
        ),
    ] = True,
    corruptions: Annotated[
        bool,
        typer.Option(help="Measure accuracy under the 15 common corruptions."),
    ] = True,
    severity: Annotated[
        Literal["1", "2", "3", "4", "5", "all"],
        typer.Option(help="How strong the corruptions are; `all` takes the mean of 1-5."),
    ] = "3",
    corrupted_images: Annotated[
        int, typer.Option(help="How many test images to corrupt, at most.", min=1)
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Measure again what the student kept: angles, accuracy, OOD detection, robustness.

    Its network before training is measured beside it, where its weights can be had
    again: distilling has paid only if the student is better.

    The recipe inside the bundle says which images and which teacher; images that have
    moved since are named here, by a SOURCE as in a recipe: a folder for example. Test
    images are those that took no part in training.
    The bundle's `evaluation.json` and `report.html` are replaced, nothing else is.

    Angle distortion is the mean |cos student - cos teacher| over pairs of images (0 is
    perfect), overlap@10 the share of the teacher's ten nearest neighbours that are kept.
    Near and far say how unlike the familiar images an unfamiliar set is.
    """
    from isogon import api
    from isogon.bundle import Bundle

    opened = Bundle.open(bundle, rewriting=["evaluate"])
    sets = dict(map(_named_set, unfamiliar or []))
    with console.progress() as progress:
        console.load("distill.evaluation.reevaluation", progress, extra="distill")
        found = api.evaluate(
            opened,
            images=images,
            test=test,
            unfamiliar=sets,
            teacher=teacher,
            corruptions=corruptions,
            corrupted_images=corrupted_images,
            severities=range(1, 6) if severity == "all" else (int(severity),),
            progress=progress,
        )
    if as_json:
        console.as_json(found.model_dump(mode="json"))
    else:
        console.evaluation(bundle, found, following=f"isogon compare {bundle} OTHER")


def compare(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles' directories.")
    ],
    as_json: AsJson = False,
) -> None:
    """Put the students of several bundles side by side; the best figures are bold.

    Below each stands its network before training, at the same width, where it was
    measured: what distilling had to beat. AUROC and FPR95 (with unfamiliar images as
    positive) are of each bundle's own detector, as the mean over the near and the far
    sets. A warning says when bundles were not evaluated on the same images: then run
    `isogon evaluate` on each with the same --images, --test and --unfamiliar.
    """
    from isogon import api

    found = api.compare(*bundles)
    for reason in found.warnings:
        console.note(f"Careful: {reason}")
    if as_json:
        console.as_json(
            {
                "bundles": list(found.subjects),
                "figures": {
                    figure.name: {
                        "better": figure.better,
                        "best": figure.best,
                        "values": figure.values,
                        "intervals": {
                            name: [one.low, one.high]
                            for name, one in figure.intervals.items()
                        },
                    }
                    for figure in found.figures
                },
                "worth": {name: asdict(worth) for name, worth in found.worth.items()},
                "warnings": list(found.warnings),
            }
        )
    else:
        console.comparison(found)


def _named_set(text: str) -> "tuple[str, tuple[str, Kind | None]]":
    """Return the name, the source and the kind that NAME[:KIND]=SOURCE says."""
    from isogon.errors import UsageError

    name, given, source = text.partition("=")
    name, colon, kind = name.partition(":")
    if not (name and given and source) or (colon and kind not in ("near", "far")):
        raise UsageError(
            f"Expected --unfamiliar as NAME=SOURCE or NAME:near=SOURCE, got {text!r}; "
            f"write for example --unfamiliar textures:far=data/textures."
        )
    found: Kind | None = "near" if kind == "near" else "far" if kind == "far" else None
    return name, (source, found)
