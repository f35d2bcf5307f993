"""`isogon card`: a bundle's model card."""

from pathlib import Path
from typing import Annotated

import typer

from isogon.cli.options import BundlePath


def card(
    bundle: BundlePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, replaced where it exists. Without it: stdout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a model card in Markdown: what it is, what it is worth, when not to trust it.

    All figures are the bundle's own. The head is metadata for Hugging Face's hub, whose
    card is called README.md.
    """
    from isogon.bundle import Bundle
    from isogon.bundle.card import model_card

    text = model_card(Bundle.open(bundle))
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
