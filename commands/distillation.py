"""`isogon distill`: a teacher's angles, in a student."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

import console
from commands.options import AsJson
from commands.stored import stored_evaluation

if TYPE_CHECKING:
    from bundle import Bundle
    from distill import Recipe


def distill(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The bundle to make. [default: NAME.isogon]"),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            help="Continue an interrupted run although its learning rate, length, "
            "clipping or precision was another."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Teach a student what a teacher knows of a folder of images, and evaluate it.

    RECIPE says which teacher, student and images; `recipes/` has examples. A run that
    was interrupted, or even killed, continues from its last checkpoint when started
    again. OUTPUT.work holds metrics.jsonl, and curves for `tensorboard --logdir`.
    """
    from distill import recipe_from_toml

    parsed = recipe_from_toml(recipe)
    with console.progress() as progress:
        path = output or Path(f"{parsed.name}.isogon")
        bundle = distilled(parsed, path, progress, accept_changes=accept_changes)
    if as_json:
        console.as_json(stored_evaluation(bundle).model_dump(mode="json"))
    else:
        following = f"isogon evaluate {bundle.path}, or isogon export {bundle.path}"
        console.evaluation(bundle.path, stored_evaluation(bundle), following=following)


def distilled(
    recipe: "Recipe", output: Path, progress: Progress, *, accept_changes: bool = False
) -> "Bundle":
    """Return the bundle that this recipe makes, or take the run up again."""
    from bundle import require_absent

    require_absent(output)
    with console.loading(progress, extra="distill"):
        from distill.distillation import distill as run
    try:
        return run(recipe, output, progress, accept_changes=accept_changes)
    except (KeyboardInterrupt, SystemExit) as stopped:
        if getattr(stopped, "code", None) != 0:  # 0: a further process of a finished run
            console.note("Stopped. Run the same command again to continue.")
        raise
