"""`distill`, `evaluate` and `compare`: students, and what they are worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isogon.api.opening import Place, opened_bundle, shown
from isogon.bundle import Bundle, Manifest
from isogon.bundle.evaluation import EVALUATION, Evaluation, Kind
from isogon.bundle.worth import Worth, worth_of
from isogon.errors import UsageError
from isogon.progress import Progress
from isogon.stages import require_own

if TYPE_CHECKING:
    from distill import Recipe
    from distill.evaluation.comparison import ComparedFigure


def distill(
    recipe: "Place | Recipe | None" = None,
    *,
    images: Place | None = None,
    unfamiliar: Place | Mapping[str, Place] | None = None,
    teacher: str | Sequence[str] = (),
    student: str | None = None,
    width: int | None = None,
    size: int | None = None,
    teacher_size: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    output: Place | None = None,
    accept_changes: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Teach a student what a teacher knows of a folder of images, and evaluate it.

    What is left open is chosen as `isogon distill` does. A run that was stopped continues
    when it is called again with the same `output`.

    Args:
        recipe: a TOML file or a `Recipe`; None: the other arguments say it all. The
            arguments replace the keys of a file; beside a `Recipe` none may be given.
        images: a folder, tars, a list, or Parquet.
        unfamiliar: out-of-distribution images that the score should flag, or several
            sets by name.
        teacher: `NAME[:CHECKPOINT]` of timm, or `package.module:factory`; or several.
        student: as `teacher`.
        width: of the embedding.
        size: pixels the student sees, height and width.
        teacher_size: pixels the teacher sees.
        epochs: length in passes over the images; 0 for the closed-form student alone.
        steps: length in steps of one batch.
        minutes: length of the whole run on this machine.
        seed: of views, their order, and new layers.
        settings: any other key, such as {"train.learning_rate": 1e-3}.
        output: the bundle to make; None: `NAME.isogon` in the current folder.
        accept_changes: continue a stopped run although its learning rate, length,
            clipping or precision was another.
        progress: where to show progress.

    Raises:
        UsageError: the recipe, the images or the models are not in order, or something
            is at `output`.
    """
    require_own("distill")
    from distill import Recipe, Wanted, chosen_from

    sets = unfamiliar if isinstance(unfamiliar, Mapping) else {"": unfamiliar}
    wanted = Wanted(
        images=_text(images),
        unfamiliar=tuple(
            f"{name}={place}" if name else str(place)
            for name, place in sets.items()
            if place is not None
        ),
        teacher=(teacher,) if isinstance(teacher, str) else tuple(teacher),
        student=student,
        width=width,
        size=size,
        teacher_size=teacher_size,
        epochs=epochs,
        steps=steps,
        seed=seed,
        settings=tuple(
            f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()
        ),
    )
    if isinstance(recipe, Recipe):
        given = [
            one.name for one in fields(wanted) if getattr(wanted, one.name) != one.default
        ]
        if given:
            raise UsageError(
                f"Expected a Recipe or {given[0]}=, got both. Change the recipe instead."
            )
        found = recipe
    else:
        file = None if recipe is None else Path(recipe)
        found = chosen_from(file, wanted, minutes=minutes).recipe
    from distill.distillation import distill as run

    place = Path(output or f"{found.name}.isogon")
    return run(
        found, place, shown(progress), accept_changes=accept_changes, minutes=minutes
    )


def evaluate(
    bundle: Place | Bundle,
    *,
    images: Place | None = None,
    test: Place | None = None,
    unfamiliar: Mapping[str, Place | tuple[Place, Kind | None]] | None = None,
    teacher: bool = True,
    corruptions: bool = True,
    corrupted_images: int = 500,
    severities: Sequence[int] = (3,),
    progress: Progress | None = None,
) -> Evaluation:
    """Measure again what the student kept of its teacher, on the recipe's images.

    The bundle's `evaluation.json` and `report.html` are replaced.

    Args:
        bundle: a distilled bundle.
        images: where the in-distribution images are now; None: where the recipe says.
        test: where the test images are now, if they are a source of their own.
        unfamiliar: where sets of out-of-distribution images are now, by name, maybe with
            their kind, "near" or "far"; a new name adds a set.
        teacher: evaluate the teacher too; False leaves out fidelity.
        corruptions: measure accuracy under the 15 common corruptions.
        corrupted_images: how many test images to corrupt, at most.
        severities: of the corruptions, 1 to 5; the mean over several.
        progress: where to show progress.

    Raises:
        UsageError: images or weights are no longer where the recipe says.
        BundleError: the bundle is damaged.
    """
    require_own("distill")
    from distill.evaluation.corruptions import CorruptionChoice
    from distill.evaluation.reevaluation import MovedSources, reevaluate

    sets: dict[str, tuple[str, Kind | None]] = {
        name: (str(one[0]), one[1]) if isinstance(one, tuple) else (str(one), None)
        for name, one in (unfamiliar or {}).items()
    }
    choice = CorruptionChoice(images=corrupted_images, severities=tuple(severities))
    return reevaluate(
        opened_bundle(bundle, "evaluate"),
        shown(progress),
        moved=MovedSources(images=_text(images), test=_text(test), unfamiliar=sets),
        with_teacher=teacher,
        corruptions=choice if corruptions else None,
    )


def evaluation(bundle: Place | Bundle) -> Evaluation:
    """Return the evaluation that a bundle holds, without measuring."""
    return opened_bundle(bundle).record(EVALUATION, Evaluation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Several bundles side by side, as they were evaluated."""

    subjects: Mapping[str, tuple[Manifest, Evaluation]]  # by the bundle's path
    figures: "Sequence[ComparedFigure]"  # each with its value for each bundle
    worth: Mapping[str, Worth]  # whether distilling has paid, by the bundle's path
    warnings: Sequence[str]  # why the figures cannot be compared, if so


def compare(*bundles: Place | Bundle) -> Comparison:
    """Put the evaluations that bundles hold side by side; nothing is measured.

    Raises:
        BundleError: a bundle is damaged.

    Example:
        >>> for figure in isogon.compare("a.isogon", "b.isogon").figures:
        ...     print(figure.name, figure.values, figure.best)
    """
    require_own("distill")
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
    return None if place is None else str(place)
