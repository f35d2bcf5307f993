"""`distill`, `recipe`, `evaluate` and `compare`: train students and measure them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isogon.api.arguments import (
    Place,
    opened_bundle,
    require_counts,
    shown,
    source_of,
    texts,
    write_text,
)
from isogon.bundle import Bundle, Manifest, require_absent
from isogon.bundle.evaluation import EVALUATION, Evaluation, Kind
from isogon.bundle.worth import Worth, worth_of
from isogon.errors import UsageError, option
from isogon.progress import Progress
from isogon.stage_imports import load_stage, needing

if TYPE_CHECKING:
    from distill import Recipe
    from distill.evaluation.comparison import ComparedFigure

# Sets of unfamiliar images by name, each maybe with its kind.
NamedSets = Mapping[str, Place | tuple[Place, Kind | None]]


def distill(
    recipe: "Place | Recipe | None" = None,
    *,
    images: Place | None = None,
    test: Place | None = None,
    unfamiliar: Place | Sequence[Place] | NamedSets | None = None,
    teacher: str | Sequence[str] = (),
    student: str | None = None,
    from_scratch: bool = False,
    width: int | None = None,
    size: int | None = None,
    teacher_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    workers: int | None = None,
    seed: int | None = None,
    loggers: str | Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    output: Place | None = None,
    accept_changes: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Distil a teacher into a student on a folder of images, and evaluate the student.

    Arguments that are left out are chosen as by `isogon distill`. A stopped run continues
    when it is called again with the same `output`.

    Args:
        recipe: a TOML file, whose keys the other arguments replace; or a `Recipe`, with
            which none of them may be given; None: only the other arguments.
        images: a folder, tars, a list, or Parquet.
        test: other images to calibrate and test on; None: a part of `images` is held out.
        unfamiliar: out-of-distribution images that the score should flag; or several
            sets, by name if in a mapping, each maybe with its kind: `("others/", "near")`.
            A text may be `NAME=SOURCE` or `NAME:near=SOURCE`, as at the command line.
        teacher: `NAME[:CHECKPOINT]` of timm, or `package.module:factory`; or several.
        student: as `teacher`.
        from_scratch: start the student from random weights, which takes far longer.
        width: the embedding dimension.
        size: image size of the student in pixels.
        teacher_size: image size of the teacher in pixels.
        epochs: length in passes over the images; 0: the closed-form student, untrained.
        steps: length in training steps of one batch.
        minutes: length of the whole run on this machine.
        batch_size: images per step.
        accumulate: cut each step into so many parts, to save memory.
        workers: processes that read images.
        seed: of augmented views, their order, and new layers.
        loggers: "wandb", "mlflow" or both: log the run there too.
        settings: any other key, such as {"train.learning_rate": 1e-3}; None removes the
            file's value.
        name: of the student; None: that of the folder of images.
        output: the bundle to make; None: `NAME.isogon` in the current folder.
        accept_changes: continue a stopped run although its learning rate, length,
            clipping or precision was different.
        progress: where to show progress.

    Raises:
        UsageError: unusable recipe, images or models, or `output` exists.

    Example:
        >>> bundle = isogon.distill(images="photos/", unfamiliar="others/", epochs=0)
        >>> bundle.manifest.width  # the embedding dimension
    """
    load_stage("distill", extra="distill")
    from distill import Recipe, Wanted, chosen_from
    from distill.images.listing import require_sources

    if not isinstance(settings, Mapping | None):
        raise UsageError(
            f'Expected settings as {{"train.learning_rate": 1e-3}}, got {settings!r}.'
        )
    wanted = Wanted(
        images=_text(images),
        test=_text(test),
        unfamiliar=_unfamiliar_sets(unfamiliar),
        teacher=texts(teacher),
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
        loggers=texts(loggers),
        name=name,
        settings=tuple(
            (key, str(value) if isinstance(value, Path) else value)
            for key, value in (settings or {}).items()
        ),
    )
    if isinstance(recipe, Recipe):
        given = [
            one.name for one in fields(wanted) if getattr(wanted, one.name) != one.default
        ]
        if given:
            raise UsageError(
                f"Expected a Recipe or {option(given[0])}, got both. Change the recipe "
                f"instead."
            )
        found = recipe
    elif not isinstance(recipe, str | Path | None):
        raise UsageError(f"Expected a recipe's file, or a Recipe, got {recipe!r}.")
    elif "\n" in str(recipe):
        raise UsageError(
            "Expected a recipe's file, got its text. Write the text to a file, for example "
            'with `isogon.recipe(…, output="recipe.toml")`.'
        )
    else:
        file = None if recipe is None else Path(recipe)
        with needing("distill"):  # the objectives of a recipe need torch
            found = chosen_from(file, wanted, minutes=minutes).recipe
    place, bars = Path(output or f"{found.name}.isogon"), shown(progress)
    require_absent(place)  # these two before torch is loaded
    require_sources(found.model_dump())
    load_stage("distill.distillation", extra="distill", progress=bars)
    from distill.distillation import distill as run

    return run(found, place, bars, accept_changes=accept_changes, minutes=minutes)


def recipe(
    images: Place,
    *,
    unfamiliar: Place | Sequence[Place] | NamedSets | None = None,
    teacher: str | Sequence[str] = (),
    student: str | None = None,
    output: Place | None = None,
) -> str:
    """Return an annotated recipe for a folder of images: every key with what it means.

    Nothing is measured or run. Change what you like, then give the file to `distill`.

    Args:
        images: a folder, tars, a list, or Parquet.
        unfamiliar: as in `distill`.
        teacher: as in `distill`.
        student: as in `distill`.
        output: a file to write the recipe to, which must not exist.

    Returns:
        The recipe as text, in TOML. What was chosen for you has the reason beside it.

    Raises:
        UsageError: there are no such images or models, or `output` exists.

    Example:
        >>> isogon.recipe("photos/", output="photos.toml")  # then: isogon.distill
    """
    load_stage("distill", extra="distill")
    from distill import Wanted, chosen_from

    wanted = Wanted(
        images=source_of(images),
        unfamiliar=_unfamiliar_sets(unfamiliar),
        teacher=texts(teacher),
        student=student,
    )
    with needing("distill"):
        chosen = chosen_from(None, wanted, minutes=None)
    load_stage("distill.recipe.keys", extra="distill")
    from distill.recipe.keys import annotated

    text = annotated(chosen.document, chosen.taken)
    if output is not None:
        write_text(Path(output), text, replace=False)
    return text


def evaluate(
    bundle: Place | Bundle,
    *,
    images: Place | None = None,
    test: Place | None = None,
    unfamiliar: NamedSets | None = None,
    teacher: bool = True,
    corruptions: bool = True,
    corrupted_images: int = 500,
    severities: int | Sequence[int] = (3,),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the student again, on the recipe's images.

    The bundle's `evaluation.json` and `report.html` are replaced.

    Args:
        bundle: a distilled bundle.
        images: where the in-distribution images are now; None: where the recipe says.
        test: where the test images are now, if the recipe has a separate source for them.
        unfamiliar: where sets of out-of-distribution images are now, by name, optionally
            with their kind, "near" or "far"; a new name adds a set.
        teacher: evaluate the teacher too; False: no fidelity is measured.
        corruptions: measure accuracy under the 15 common corruptions.
        corrupted_images: the largest number of test images to corrupt.
        severities: of the corruptions, 1 to 5; several are averaged.
        progress: where to show progress.

    Raises:
        UsageError: images or weights are not where the recipe says.
        BundleError: the bundle is damaged.

    Example:
        >>> evaluation = isogon.evaluate("photos.isogon", corruptions=False)
        >>> evaluation.fidelity.neighbour_overlap  # of the 10 nearest, in [0, 1]
    """
    if not isinstance(unfamiliar, Mapping | None):
        raise UsageError(
            f'Expected unfamiliar as {{"name": place}}, got {unfamiliar!r}. The names are '
            f"those of the recipe; a new one adds a set."
        )
    strengths = (severities,) if isinstance(severities, int) else tuple(severities)
    if not strengths or not set(strengths) <= set(range(1, 6)):
        raise UsageError(f"Expected severities from 1 to 5, got {severities!r}.")
    require_counts(corrupted_images=corrupted_images)
    opened, bars = opened_bundle(bundle, "evaluate"), shown(progress)
    load_stage("distill.evaluation.reevaluation", extra="distill", progress=bars)
    from distill.evaluation.corruptions import CorruptionChoice
    from distill.evaluation.reevaluation import MovedSources, reevaluate

    choice = CorruptionChoice(images=corrupted_images, severities=strengths)
    return reevaluate(
        opened,
        bars,
        moved=MovedSources(
            images=_text(images), test=_text(test), unfamiliar=_by_name(unfamiliar or {})
        ),
        with_teacher=teacher,
        corruptions=choice if corruptions else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The stored evaluations of several bundles, to compare."""

    subjects: Mapping[str, tuple[Manifest, Evaluation]]  # by the bundle's path
    figures: "Sequence[ComparedFigure]"  # each with its value for each bundle
    worth: Mapping[str, Worth]  # whether distilling has paid, by the bundle's path
    warnings: Sequence[str]  # why the figures cannot be compared, if so

    def __repr__(self) -> str:
        """Return which bundles are compared, and by how many figures, for a notebook."""
        return f"Comparison({', '.join(self.subjects)}: {len(self.figures)} figures)"


def compare(*bundles: Place | Bundle) -> Comparison:
    """Compare the stored evaluations of bundles; nothing is measured.

    Raises:
        UsageError: there is no bundle to compare.
        BundleError: a bundle is damaged.

    Example:
        >>> for figure in isogon.compare("a.isogon", "b.isogon").figures:
        ...     print(figure.name, figure.values, figure.best)
    """
    if not bundles:
        raise UsageError(
            "Expected bundles to compare, got none. Write for example "
            '`isogon.compare("a.isogon", "b.isogon")`.'
        )
    load_stage("distill.evaluation.comparison", extra="distill")
    from distill.evaluation.comparison import compared, unfair

    subjects = {}
    for one in bundles:
        opened = opened_bundle(one)
        name = str(one.path) if isinstance(one, Bundle) else str(one)
        subjects[name] = (opened.manifest, opened.record(EVALUATION, Evaluation))
    return Comparison(
        subjects=subjects,
        figures=compared(subjects),
        worth={name: worth_of(found) for name, (_, found) in subjects.items()},
        warnings=unfair(subjects),
    )


def _text(place: Place | None) -> str | None:
    return None if place is None else source_of(place)


def _by_name(sets: NamedSets) -> dict[str, tuple[str, Kind | None]]:
    """Return each set's place and kind; None: not stated."""
    return {
        name: (source_of(one[0]), one[1])
        if isinstance(one, tuple)
        else (source_of(one), None)
        for name, one in sets.items()
    }


def _unfamiliar_sets(
    sets: Place | Sequence[Place] | NamedSets | None,
) -> tuple[str | dict[str, str], ...]:
    """Return the recipe's tables `[[unfamiliar]]`; a text as `NAME:near=SOURCE` has it."""
    if isinstance(sets, Mapping):
        return tuple(
            {"name": name, "images": place} | ({"kind": kind} if kind else {})
            for name, (place, kind) in _by_name(sets).items()
        )
    if sets is None:
        return ()
    several = (sets,) if isinstance(sets, Path) else texts(sets)  # type: ignore[arg-type]
    return tuple(
        one if isinstance(one, str) else {"images": source_of(one)} for one in several
    )
