"""`isogon run`: embed a few images, with an ONNX file alone or a bundle."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson
from isogon.cli.tables import add_row, titled

if TYPE_CHECKING:
    from isogon.model import Answer, Model, Unread


def run(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="An ONNX file that `isogon export` made; or a bundle, whose "
            "onnx/model.onnx runs.",
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Also write names, embeddings and scores to this .npz file.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which runtime runs an ONNX file alone: onnxruntime, in which its "
            "calibration was measured, or openvino. Without it: onnxruntime.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of one run. Without it: the runtime's default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed a few images, and show which are unfamiliar (OOD).

    An ONNX file is enough: preprocessing and calibration are in it; neither its bundle
    nor torch is needed. `examples/edge.py` does the same without Isogon. For many images:
    `isogon embed`. Exit status 1 if an image could not be read.
    """
    from isogon import api
    from isogon.model import Answer, require_savable, save_answers

    if output is not None:
        require_savable(output)
    opened = api.load(model, runtime=runtime, threads=threads)
    with console.progress() as progress:
        found = list(opened.answers(_files(images), progress))
    answered = [one for one in found if isinstance(one, Answer)]
    if as_json:
        console.as_json(
            {
                "model": str(model),
                "runner": opened.name,
                "fingerprint": opened.fingerprint,
                "results": [one.document() for one in found],
            }
        )
    else:
        show_answers(opened, found)
    if output is not None and answered:  # last, so a failure here hides no answers
        save_answers(output, answered, opened.fingerprint)
    if len(answered) < len(found):
        raise typer.Exit(1)


def show_answers(model: "Model", found: "Sequence[Answer | Unread]") -> None:
    """Print the score, p-value and verdict of each image; name the unreadable ones."""
    from isogon.model import Answer

    table = titled(model.name, "image", "OOD score", "p", "", "embedding")
    table.columns[0].overflow = "fold"  # show long names in full
    for one in found:
        if not isinstance(one, Answer):
            continue
        verdict = (
            Text("unfamiliar", "bold red") if one.is_ood else Text("familiar", "green")
        )
        begins = " ".join(f"{value:+.3f}" for value in one.embedding[:3])
        add_row(
            table,
            one.name,
            f"{one.ood_score:.4f}",
            f"{one.p_value:.4f}",
            verdict,
            f"{begins} … [{len(one.embedding)}]",
        )
    table.caption = (
        f"A p-value of at most {model.calibration.alpha:g} is unfamiliar; "
        f"fingerprint {model.fingerprint[:12]}…"
    )
    table.caption_justify = "left"
    if table.rows:
        out.print(table)
    for one in found:
        if not isinstance(one, Answer):
            note(f"{one.name} {one.reason}")


def _files(images: list[Path]) -> list[Path]:
    """Return the files, with each folder replaced by the images in it."""
    from isogon.images import ImageFolder

    return [
        file
        for image in images
        for file in (ImageFolder.list(image).files() if image.is_dir() else [image])
    ]
