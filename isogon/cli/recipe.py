"""`isogon recipe`: write an annotated recipe for a folder of images; print recipes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogon.cli.console import note
from isogon.cli.options import OF_RECIPE, Unfamiliar

if TYPE_CHECKING:
    from distill import Chosen


def recipe(
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="The images to learn from, as in `distill`."),
    ],
    unfamiliar: Unfamiliar = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="As in `distill`.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="As in `distill`.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write; it must not exist. Without it: stdout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a recipe for a folder of images. Every key has a comment on what it means.

    Nothing is measured or run. Change what you like, then run `isogon distill RECIPE`. A
    value that was chosen for you has the reason beside it.
    """
    from isogon import api

    text = api.recipe(
        images,
        unfamiliar=unfamiliar or (),
        teacher=teacher or (),
        student=student,
        output=output,
    )
    if output is None:
        print(text, end="")


def show_recipe(chosen: "Chosen", *, whole: bool) -> None:
    """Print what will run: the whole recipe, or only the keys that the file left out."""
    from distill import toml_text

    for text in chosen.renamed:
        note(text)
    if whole:
        note(toml_text(chosen.document, chosen.taken))
        return
    for one in chosen.taken:
        note(f"[{one.section}] {one.key} = {one.value!r}: {one.reason}")


def print_recipe(chosen: "Chosen") -> None:
    """Print the recipe as a file."""
    from distill import toml_text

    print(toml_text(chosen.document, chosen.taken), end="")
