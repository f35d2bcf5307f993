"""`isogon run`: an ONNX file alone, without its bundle."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli import console
from isogon.cli.options import AsJson


def run(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="An ONNX file that `isogon export` made."),
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
            help="What runs it: onnxruntime, in which its calibration was measured, or "
            "openvino. Without it: onnxruntime.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of one run. Without it: its own choice.",
            min=1,
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed images with an ONNX file alone, and say which are unfamiliar.

    Preprocessing and calibration are in the file; neither its bundle nor torch is
    needed. `examples/edge.py` does the same without Isogon. Exit status 1 if an image
    could not be read.
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
        console.answers(opened, found)
    if output is not None and answered:  # last: the answers are shown even if this fails
        save_answers(output, answered, opened.fingerprint)
    if len(answered) < len(found):
        raise typer.Exit(1)


def _files(images: list[Path]) -> list[Path]:
    """Return the files, a folder standing for the images in it."""
    from isogon.images import ImageFolder

    return [
        file
        for image in images
        for file in (ImageFolder.list(image).files() if image.is_dir() else [image])
    ]
