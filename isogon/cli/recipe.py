"""`isogon recipe`: write an annotated recipe for a folder of images; print recipes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isogon.cli import console
from isogon.cli.console import note

if TYPE_CHECKING:
    from distill import Chosen


def recipe(
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="The images to learn from, as in `distill`."),
    ],
    unfamiliar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME[:near|far]=]SOURCE",
            help="Images the OOD score should flag. May be given several times.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]", help="As in `distill`.", show_default=False
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]", help="As in `distill`.", show_default=False
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
    from distill import Wanted, chosen_from
    from distill.images.listing import require_sources
    from distill.recipe.keys import annotated
    from isogon.errors import UsageError

    with console.needing("distill"):
        wanted = Wanted(
            images=images,
            unfamiliar=tuple(unfamiliar or ()),
            teacher=tuple(teacher or ()),
            student=student,
        )
        chosen = chosen_from(None, wanted, minutes=None)
        require_sources(chosen.recipe)
    text = annotated(chosen.document, chosen.taken)
    if output is None:
        print(text, end="")
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(
            f"{output} exists already, and a recipe is never overwritten. Choose another "
            f"--output, or remove it."
        ) from error


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
