"""A recipe as it is going to be run, with what was chosen for the user and why."""

from typing import TYPE_CHECKING

from isogon.cli.terminal import note

if TYPE_CHECKING:
    from distill import Chosen


def recipe(chosen: "Chosen", *, whole: bool) -> None:
    """Say what will be run: the whole recipe, or only what a file left to be chosen."""
    from distill import written

    for text in chosen.renamed:
        note(text)
    if whole:
        note(written(chosen.document, chosen.taken))
        return
    for one in chosen.taken:
        note(f"[{one.section}] {one.key} = {one.value!r}: {one.reason}")


def written_recipe(chosen: "Chosen") -> None:
    """Print the recipe as a file."""
    from distill import written

    print(written(chosen.document, chosen.taken), end="")
