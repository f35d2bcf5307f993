"""Distil: a recipe and a folder of images become a bundle."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from distill.bundle_writing import JudgedModels, write_bundle
from distill.embedding import RoleEmbeddings, embed_all, teacher_embeddings
from distill.evaluation.accuracy import say_if_left_out
from distill.evaluation.evaluate import cost_of, evaluate
from distill.evaluation.undistilled import untrained
from distill.images.data import Data, prepare_data
from distill.images.listing import require_sources
from distill.images.loading import (
    EpochPlan,
    TrainingViews,
    neighbour_plan,
    plain_crops,
    readers_watched,
    shuffled_plan,
)
from distill.images.neighbours import kept_neighbours
from distill.images.views import Views
from distill.objectives.objective import SAMPLE, Labels
from distill.planning import planned
from distill.preparation import RunModels, prepare_models
from distill.recipe import Recipe
from distill.requirements import require_enough, require_models
from distill.start.fitting import UntrainedStudent, start_student
from distill.student_from_recipe import card_of, student_preprocessing
from distill.targets import Teacher, in_batches
from distill.training.agreement import require_agreement
from distill.training.checkpoint import Checkpoint, remove_checkpoint, sole_run
from distill.training.loggers import RunLoggers, require_loggers, run_loggers
from distill.training.processes import accompanied, launched, parts_of
from distill.training.trainer import Trainer, TrainingLog
from distill.training.validation import Validation
from isogon.bundle import Bundle, StudentCard, require_absent
from isogon.bundle.evaluation import Training
from isogon.networks import Features, Student
from isogon.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedStudent:
    """A trained student, with its teacher, images and log."""

    student: Student  # as it is deployed, in evaluation mode
    teacher: Teacher
    data: Data
    log: TrainingLog
    card: StudentCard
    device: torch.device
    before: UntrainedStudent  # the student's network before training
    seen: RoleEmbeddings | None  # the teacher's embeddings, if they were computed


def distill(
    recipe: Recipe,
    output: Path,
    progress: Progress,
    *,
    accept_changes: bool = False,
    minutes: float | None = None,
) -> Bundle:
    """Run `recipe` and write the bundle `output`; an interrupted run is continued.

    With several devices this process starts the others, and each runs this function. The
    first one evaluates the student and writes the bundle; the others end after training.

    Args:
        recipe: what to run.
        output: path of the bundle.
        progress: where to show progress.
        accept_changes: whether to continue a run that had another learning rate, length,
            clipping or precision.
        minutes: how long the run may take, instead of the recipe's length.

    Raises:
        UsageError: `output` exists, another run writes it, or the images or models are
            unsuitable.
    """
    recipe.ood.require_read()
    require_absent(output)
    require_sources(recipe.model_dump())
    require_loggers(recipe.train.loggers)
    require_models(recipe)
    work = work_folder(output)
    with sole_run(work, recipe.train):
        require_absent(output)  # another run may have written it meanwhile
        recipe, data = planned(recipe, work, progress, minutes=minutes)
        with run_loggers(recipe, work, progress) as loggers:
            bundle = _distilled(
                recipe,
                output,
                work,
                progress,
                accept_changes=accept_changes,
                data=data,
                loggers=loggers,
            )
        remove_checkpoint(work)
    return bundle


def _distilled(
    recipe: Recipe,
    output: Path,
    work: Path,
    progress: Progress,
    *,
    accept_changes: bool,
    data: Data | None,
    loggers: RunLoggers,
) -> Bundle:
    """Train and evaluate the recipe's student, and write its bundle."""
    trained = learn(
        recipe,
        work,
        progress,
        accept_changes=accept_changes,
        data=data,
        judged=True,
        loggers=loggers,
    )
    before, preprocessing = trained.before, student_preprocessing(recipe)
    embedded = embed_all(
        trained.teacher,
        trained.student.embed,
        before.backbone,
        trained.data,
        preprocessing,
        progress,
        device=trained.device,
        workers=recipe.train.workers,
        seen=trained.seen,
    )
    say_if_left_out(trained.data, progress)
    log = trained.log
    evaluation = evaluate(
        trained.data,
        embedded.teacher,
        embedded.student,
        detector=recipe.ood,
        training=Training(
            terms=log.epochs,
            seconds_per_epoch=log.seconds_per_epoch,
            steps=log.steps,
            kept_step=log.kept_step,
            validated=log.validated,
        ),
        same_space=recipe.student.space == "teacher",
        untrained=untrained(embedded, before, trained.student.width),
        cost=cost_of(trained.student, preprocessing, trained.device),
        parts=trained.teacher.parts,
    )
    bundle = write_bundle(
        output,
        recipe,
        trained.data,
        trained.teacher,
        trained.student,
        trained.card,
        JudgedModels(
            teacher=embedded.teacher,
            student=embedded.student,
            evaluation=evaluation,
            layer=before.layer,
        ),
        progress,
    )
    loggers.conclude(bundle, evaluation)
    return bundle


def learn(
    recipe: Recipe,
    work: Path,
    progress: Progress,
    *,
    accept_changes: bool = False,
    data: Data | None = None,
    judged: bool = False,
    loggers: RunLoggers | None = None,
) -> TrainedStudent:
    """Train the recipe's student, continuing from the checkpoint in `work`.

    The checkpoint stays; remove it after the bundle is written. Images are listed and read
    unless `data` is given. With `judged` the teacher embeds the images of every role first,
    unless the run is continued. `loggers` get the figures of the steps.

    Raises:
        UsageError: the images or models are unsuitable, or the loss diverged.
        ProcessError: see `accompanied`.
    """
    if data is None:
        require_models(recipe)
    waiting = progress.add_task("Waiting for the other processes", total=None)
    fabric = launched(recipe.train)
    progress.remove_task(waiting)
    with accompanied(fabric):
        trained = _prepared_and_trained(
            fabric,
            recipe,
            work,
            progress,
            accept_changes=accept_changes,
            data=data,
            judged=judged,
            loggers=loggers,
        )
    if not fabric.is_global_zero:
        raise SystemExit(0)
    return trained


@readers_watched()
def _prepared_and_trained(
    fabric: Fabric,
    recipe: Recipe,
    work: Path,
    progress: Progress,
    *,
    accept_changes: bool,
    data: Data | None,
    judged: bool,
    loggers: RunLoggers | None,
) -> TrainedStudent:
    """Train the student in each of the run's processes."""
    torch.manual_seed(recipe.train.seed)
    device = fabric.device
    data = data or prepare_data(recipe, progress, work)
    checkpoint = Checkpoint(
        work, recipe, data.training_names, accept_changes=accept_changes
    )
    require_agreement(fabric, data.sources, checkpoint.shaping)
    require_enough(recipe, len(data.taught))
    checkpoint.require_continuable()
    models = prepare_models(recipe, data, device, progress, work)
    in_teachers = recipe.student.space == "teacher"
    recipe.ood.require_possible(
        len(data.bank),
        bool(data.familiar.classes),
        models.teacher.card.width if in_teachers else models.student.width,
    )
    continued = checkpoint.path.exists()
    seen = None
    if judged and not continued and fabric.is_global_zero:
        seen = teacher_embeddings(
            models.teacher,
            data,
            student_preprocessing(recipe),
            progress,
            device=device,
            workers=recipe.train.workers,
        )
    if models.objective.start_on != "nothing" and not continued:
        models.objective.start(_start_features(models, data, device, progress))
    before = start_student(
        recipe, data, models, work, device, progress, continued=continued
    )
    log = TrainingLog()
    if recipe.train.epochs:
        log = _trained(
            fabric, recipe, data, models, checkpoint, work, progress, loggers=loggers
        )
    student = _final_student(recipe, models)
    return TrainedStudent(
        student=student.to(device),
        teacher=models.teacher,
        data=data,
        log=log,
        card=card_of(student, recipe, models.student_licence),
        device=device,
        before=before,
        seen=seen,
    )


def _trained(
    fabric: Fabric,
    recipe: Recipe,
    data: Data,
    models: RunModels,
    checkpoint: Checkpoint,
    work: Path,
    progress: Progress,
    *,
    loggers: RunLoggers | None,
) -> TrainingLog:
    """Train the student from its start to the end of the recipe."""
    device = fabric.device
    validation = _validation(recipe, data, models, device, progress)
    targets = models.teacher.targets(data.taught, device, progress)
    trainer = Trainer(
        fabric,
        models.student,
        models.objective,
        targets,
        TrainingViews(
            Views(
                data.imitated,
                recipe.data,
                recipe.train.seed,
                sizes=[recipe.data.size, *targets.sizes],
            ),
            _plan(recipe, data, models.teacher, work, device, progress),
            labels=models.labels,
            workers=recipe.train.workers,
            parts=recipe.train.parts,
            mine=parts_of(fabric, recipe.train.accumulate),
            repeats=recipe.data.repeats,
            replayed=targets.replayed,
        ),
        recipe.train,
        checkpoint,
        progress,
        validation=validation if fabric.is_global_zero else None,
        loggers=loggers,
    )
    return trainer.run()


def _validation(
    recipe: Recipe, data: Data, models: RunModels, device: torch.device, progress: Progress
) -> Validation | None:
    """Return the validation images with the teacher's vectors, None without any."""
    if not len(data.validation):
        return None
    indices = data.fitted[data.compared]
    if recipe.student.in_closed_form:  # it has had all of `fitted` computed already
        pooled = models.teacher.pooled(data.fitted, device, progress)[data.compared]
    else:
        pooled = models.teacher.pooled(indices, device, progress)
    crops = plain_crops(data.familiar, indices, student_preprocessing(recipe), workers=0)
    return Validation(crops, np.asarray(pooled, np.float32), asked=len(data.validation))


def _start_features(
    models: RunModels, data: Data, device: torch.device, progress: Progress
) -> Iterator[tuple[Features, Labels]]:
    """Yield the teacher's features and the labels of taught images, without augmentation.

    The first `SAMPLE` images have all their tokens, the others only the pooled vector.
    """
    taught = data.taught
    if models.objective.start_on == "sample":
        taught = taught[:SAMPLE]
        pooled = np.empty((0, models.teacher.card.width))
    else:
        pooled = models.teacher.pooled(data.everything, device, progress)[: len(taught)]
    rest = np.arange(SAMPLE, len(pooled))
    task = progress.add_task("Starting from the teacher", total=len(taught))
    first = 0
    for features in chain(
        models.teacher.sample(taught[:SAMPLE], device), in_batches(pooled, rest, device)
    ):
        chunk = taught[first : first + len(features.tokens)]
        first += len(chunk)
        labels = None if models.labels is None else torch.from_numpy(models.labels[chunk])
        progress.update(task, advance=len(chunk))
        yield features, labels


def _plan(
    recipe: Recipe,
    data: Data,
    teacher: Teacher,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> EpochPlan:
    """Return the plan of the batches: random images, or neighbours of each other."""
    section, taught = recipe.train, data.taught
    if not recipe.of_neighbours:
        return shuffled_plan(
            taught,
            batch_size=section.batch_size,
            parts=section.parts,
            repeats=recipe.data.repeats,
            seed=section.seed,
        )
    pooled = teacher.pooled(data.everything, device, progress)[: len(taught)]
    neighbours = kept_neighbours(work, pooled)
    return neighbour_plan(
        taught,
        neighbours,
        batch_size=section.batch_size,
        seed=section.seed,
    )


def _final_student(recipe: Recipe, models: RunModels) -> Student:
    """Return the deployed student; with `space = "teacher"` followed by the map there."""
    if recipe.student.space == "student":
        return models.student
    layer = models.objective.to_teacher()
    assert layer is not None  # checked when the models were made
    return models.student.followed_by(layer).eval()


def work_folder(output: Path) -> Path:
    """Return the folder of the checkpoint and the journal of the run for `output`."""
    return output.with_name(output.name + ".work")
