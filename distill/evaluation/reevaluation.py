"""Evaluate a bundle again, with its own weights and its recipe's images and teacher."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from distill.embedding import Embed, embed_all
from distill.evaluation.accuracy import say_if_left_out
from distill.evaluation.corruptions import (
    CorruptedEmbeddings,
    CorruptionChoice,
    embed_corrupted,
    why_not,
)
from distill.evaluation.evaluate import cost_of, evaluate
from distill.evaluation.report_files import illustrations_of, write_evaluation
from distill.evaluation.undistilled import untrained
from distill.images.data import Data, prepare_data
from distill.images.listing import open_source
from distill.recipe import Recipe, recipe_from_document, recipe_from_toml
from distill.recipe.writing import placed_here
from distill.start.fitting import UntrainedStudent, re_estimate, start_from_bundle
from distill.student_from_recipe import student_from_recipe
from distill.targets import BALANCE, Teacher, teacher_from_recipe
from isogon.bundle import Bundle, parity_reports
from isogon.bundle.evaluation import EVALUATION, Evaluation, Kind, Role, Training
from isogon.bundle.stage_writer import fault_of
from isogon.errors import BundleError, UsageError, option
from isogon.networks import student_from_bundle
from isogon.parity import ParityReport
from isogon.progress import Progress, say


@dataclass(frozen=True, kw_only=True, slots=True)
class MovedSources:
    """Where the images are now, if they are not where the recipe says."""

    images: str | None = None  # as in a recipe
    test: str | None = None
    # By the set's name: its source and kind. A name that the recipe does not have adds a
    # set. Without a kind, the recipe's stays; a new set is "far".
    unfamiliar: Mapping[str, tuple[str, Kind | None]] = field(default_factory=dict)

    def applied(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these sources, checked as a recipe is.

        Raises:
            UsageError: a set's name that a recipe could not have.
        """
        document = recipe.model_dump()
        changed = {"images": self.images, "test": self.test}
        document["data"] |= {key: place for key, place in changed.items() if place}
        sets = {one["name"]: one for one in document["unfamiliar"]}
        for name, (place, kind) in self.unfamiliar.items():
            known = sets[name]["kind"] if name in sets else "far"
            sets[name] = {"name": name, "images": place, "kind": kind or known}
        document["unfamiliar"] = list(sets.values())
        return recipe_from_document(document, where="isogon evaluate")

    def lost(self, recipe: Recipe) -> list[str]:
        """Return the options that name the sources which no longer exist."""
        sources = {
            option("images", "SOURCE"): None if self.images else recipe.data.images,
            option("test", "SOURCE"): None if self.test else recipe.data.test,
        } | {
            option("unfamiliar", {one.name: "SOURCE"}): one.images
            for one in recipe.unfamiliar
            if one.name not in self.unfamiliar
        }
        return [
            naming for naming, source in sources.items() if source and not _there(source)
        ]


def reevaluate(
    bundle: Bundle,
    progress: Progress,
    *,
    moved: MovedSources | None = None,
    with_teacher: bool = True,
    corruptions: CorruptionChoice | None = None,
) -> Evaluation:
    """Measure the bundle's student again and replace `evaluation.json` and the report.

    Args:
        bundle: an open bundle.
        progress: shows progress, and prints what was left out.
        moved: where the images are, if not where the recipe says.
        with_teacher: whether to evaluate the teacher too, and fidelity to it.
        corruptions: how much to measure under corruptions; None for nothing.

    Raises:
        UsageError: the images or the teacher cannot be loaded.
    """
    text = bundle.file("recipe.toml").read_text(encoding="utf-8")
    moved = moved or MovedSources()
    theirs = recipe_from_toml(bundle.file("recipe.toml"))
    recipe = moved.applied(placed_here(theirs, bundle.path.parent))
    earlier = _earlier(bundle, progress)
    data = _data(recipe, moved, progress)
    say_if_left_out(data, progress)
    crop = bundle.manifest.preprocessing
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = _teacher(recipe, data, bundle, device, progress) if with_teacher else None
    student = student_from_bundle(bundle).to(device)
    embeds: dict[Role, Embed] = {"student": student.embed}
    if teacher is not None and teacher.embed is not None:
        embeds["teacher"] = teacher.embed
    workers = recipe.train.workers
    before = _before(recipe, bundle, data, device, progress)
    embedded = embed_all(
        teacher,
        student.embed,
        None if before is None else before.backbone,
        data,
        crop,
        progress,
        device=device,
        workers=workers,
    )
    corrupted: dict[Role, CorruptedEmbeddings] = {}
    if corruptions is not None and _possible(data, bundle, embeds, progress):
        several = embed_corrupted(
            list(embeds.values()),
            data,
            crop,
            corruptions,
            progress,
            device=device,
            workers=workers,
        )
        corrupted = dict(zip(embeds, several, strict=True))
    evaluation = evaluate(
        data,
        embedded.teacher,
        embedded.student,
        detector=recipe.ood,
        training=Training(terms=()) if earlier is None else earlier.training,
        same_space=bundle.manifest.space == "teacher",
        corrupted=corrupted,
        untrained=untrained(embedded, before, student.width),
        cost=cost_of(student, crop, device),
        parts={} if teacher is None else teacher.parts,
    )
    if earlier is not None and evaluation.test_digest != earlier.test_digest:
        say(
            progress,
            "These are not the test images of the last evaluation, so its figures are not "
            "comparable with these. The student may have learned from some of these "
            "images.",
        )
    illustrations = illustrations_of(
        data,
        embedded.teacher,
        embedded.student,
        detector=recipe.ood,
        fitted=recipe.ood.fit(embedded.student.bank, data.familiar.labels(data.bank)),
        manifest=bundle.manifest,
        recipe=text,
    )
    with bundle.stage("evaluate") as stage:
        write_evaluation(stage, evaluation, illustrations, _parity(bundle, progress))
    return evaluation


def _data(recipe: Recipe, moved: MovedSources, progress: Progress) -> Data:
    try:
        return prepare_data(recipe, progress)
    except UsageError as error:
        lost = moved.lost(recipe)
        if not lost:
            raise
        raise UsageError(
            f"{error} Say where the recipe's images are now, with {' and '.join(lost)}."
        ) from error


def _there(source: str) -> bool:
    try:
        open_source(source)
    except UsageError:
        return False
    return True


def _teacher(
    recipe: Recipe, data: Data, bundle: Bundle, device: torch.device, progress: Progress
) -> Teacher:
    try:
        teacher = teacher_from_recipe(recipe, data.familiar)
        arrays = bundle.arrays(BALANCE) if BALANCE in bundle.manifest.files else None
        teacher.prepare(data.fitted, device, progress, arrays=arrays)
        return teacher
    except UsageError as error:
        raise UsageError(
            f"{error} Or evaluate the student alone, with {option('teacher', False)}."
        ) from error


def _before(
    recipe: Recipe, bundle: Bundle, data: Data, device: torch.device, progress: Progress
) -> UntrainedStudent | None:
    """Return the student before training, if its network can be made again."""
    try:
        student, _ = student_from_recipe(recipe)
    except UsageError as error:
        say(progress, f"The student before training is left out: {error}")
        return None
    if recipe.train.batch_statistics == "re-estimated":
        re_estimate(student.backbone, recipe, data, device, progress)
    return UntrainedStudent(
        backbone=student.backbone.eval().requires_grad_(False),
        layer=start_from_bundle(bundle),
        pretrained=recipe.student.from_pretrained,
    )


def _possible(
    data: Data, bundle: Bundle, embeds: Mapping[Role, Embed], progress: Progress
) -> bool:
    reason = why_not(data, bundle.manifest.preprocessing, list(embeds.values()))
    if reason is not None:
        say(progress, f"Corruptions are left out: {reason}.")
    return reason is None


def _earlier(bundle: Bundle, progress: Progress) -> Evaluation | None:
    """Return the evaluation that is replaced: only it has the log of the training."""
    try:
        fault = fault_of(bundle.file(EVALUATION), bundle.manifest.files[EVALUATION])
        if fault is None:
            return bundle.record(EVALUATION, Evaluation)
        fault = f"{EVALUATION} {fault}"
    except BundleError as error:
        fault = str(error)
    say(progress, f"{fault}\nThe log of the training is lost.")
    return None


def _parity(bundle: Bundle, progress: Progress) -> tuple[ParityReport, ...]:
    """Return the parity reports for the page; none if they cannot be read."""
    try:
        return parity_reports(bundle)
    except BundleError as error:
        say(progress, f"{error}\nThe report has no parity.")
        return ()
