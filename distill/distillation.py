"""Distil: a recipe and a folder of images become a bundle."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from backbones import Features, Student
from bundle import Bundle, StudentCard, require_absent
from distill.embedding import embed_both
from distill.evaluation import Training
from distill.evaluation.accuracy import say_if_left_out
from distill.evaluation.evaluate import evaluate
from distill.images.data import Data, prepare_data
from distill.images.loading import (
    Plan,
    TrainingViews,
    global_batch,
    neighbourly,
    shuffled,
)
from distill.images.neighbours import AMONG, kept_neighbours, require_neighbours
from distill.images.pseudo_classes import require_clusters
from distill.images.views import Views
from distill.objectives.objective import SAMPLE, Labels
from distill.preparation import Models, card_of, prepare_models, preprocessing_for
from distill.recipe import Recipe
from distill.requirements import require_models
from distill.targets import Teacher, in_batches
from distill.training.checkpoint import Checkpoint, remove_checkpoint
from distill.training.lock import sole_run
from distill.training.processes import launched, parts_of
from distill.training.trainer import Trainer, TrainingLog
from distill.writing import Judged, write_bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnt:
    """A trained student, and what it learnt from."""

    student: Student  # as it is deployed, in evaluation mode
    teacher: Teacher
    data: Data
    log: TrainingLog
    card: StudentCard
    device: torch.device


def distill(
    recipe: Recipe, output: Path, progress: Progress, *, accept_changes: bool = False
) -> Bundle:
    """Run `recipe` and write the bundle `output`; an interrupted run is continued.

    With several devices this process starts the others, and each runs this function;
    the first one evaluates the student and writes the bundle, the others end.

    Args:
        recipe: what to run.
        output: where the bundle is to be.
        progress: where to show progress.
        accept_changes: whether to continue a run whose learning rate, length, clipping
            or precision was another.

    Raises:
        UsageError: something is at `output`, another run makes it, or the images or
            models do not do.
    """
    recipe.ood.require_read()
    require_absent(output)
    work = work_folder(output)
    with sole_run(work, recipe.train):
        require_absent(output)  # another run may have made it meanwhile
        bundle = _distilled(recipe, output, work, progress, accept_changes=accept_changes)
        remove_checkpoint(work)
    return bundle


def _distilled(
    recipe: Recipe, output: Path, work: Path, progress: Progress, *, accept_changes: bool
) -> Bundle:
    """Train and evaluate the recipe's student, and write its bundle."""
    learnt = learn(recipe, work, progress, accept_changes=accept_changes)
    teacher, student = embed_both(
        learnt.teacher,
        learnt.student.embed,
        learnt.data,
        preprocessing_for(recipe, recipe.student.name),
        progress,
        device=learnt.device,
        workers=recipe.train.workers,
    )
    say_if_left_out(learnt.data, progress)
    log = learnt.log
    evaluation = evaluate(
        learnt.data,
        teacher,
        student,
        detector=recipe.ood,
        training=Training(terms=log.epochs, seconds_per_epoch=log.seconds_per_epoch),
        same_space=recipe.student.space == "teacher",
    )
    return write_bundle(
        output,
        recipe,
        learnt.data,
        learnt.teacher.card,
        learnt.student,
        learnt.card,
        Judged(teacher=teacher, student=student, evaluation=evaluation),
        progress,
    )


def learn(
    recipe: Recipe, work: Path, progress: Progress, *, accept_changes: bool = False
) -> Learnt:
    """Train the recipe's student, continuing from the checkpoint in `work`.

    The checkpoint stays: remove it when what the student was trained for is done.

    Raises:
        UsageError: the images or models do not do, or the loss diverged.
    """
    require_models(recipe)
    fabric = launched(recipe.train)
    torch.manual_seed(recipe.train.seed)
    device = fabric.device
    data = prepare_data(recipe, progress, work)
    _require_enough(recipe, len(data.split.bank))
    checkpoint = Checkpoint(work, recipe, data.trained, accept_changes=accept_changes)
    checkpoint.require_continuable()
    models = prepare_models(recipe, data, device, progress)
    in_teachers = recipe.student.space == "teacher"
    recipe.ood.require_possible(
        len(data.bank),
        bool(data.familiar.classes),
        models.teacher.card.width if in_teachers else models.student.width,
    )
    if models.objective.start_on != "nothing" and not checkpoint.path.exists():
        models.objective.start(_start(models, data, device, progress))
    targets = models.teacher.targets(data.split.bank, device, progress)
    trainer = Trainer(
        fabric,
        models.student,
        models.objective,
        targets,
        TrainingViews(
            Views(data.familiar, recipe.data, recipe.train.seed),
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
    )
    log = trainer.run()
    if not fabric.is_global_zero:
        raise SystemExit(0)
    student = _final_student(recipe, models)
    return Learnt(
        student=student,
        teacher=models.teacher,
        data=data,
        log=log,
        card=card_of(student, recipe, models.student_licence),
        device=device,
    )


def _require_enough(recipe: Recipe, images: int) -> None:
    """Refuse too few training images, before the teacher's features are computed."""
    size = recipe.train.batch_size
    if recipe.of_neighbours:
        require_neighbours(images, min(AMONG, images - 1), size)
    else:
        global_batch(images, size, recipe.train.parts)
    if recipe.data.pseudo_classes:
        require_clusters(images, recipe.data.pseudo_classes)


def _start(
    models: Models, data: Data, device: torch.device, progress: Progress
) -> Iterator[tuple[Features, Labels]]:
    """Yield the teacher's features and the labels of training images, as they are.

    Those of the first `SAMPLE` with all their tokens, those of the rest pooled.
    """
    learnt = data.split.bank
    if models.objective.start_on == "sample":
        learnt = learnt[:SAMPLE]
        pooled = np.empty((0, models.teacher.card.width))
    else:
        pooled = models.teacher.pooled(learnt, device, progress)  # computed once, kept
    rest = np.arange(SAMPLE, len(pooled))
    task = progress.add_task("Starting from the teacher", total=len(learnt))
    first = 0
    for features in chain(
        models.teacher.sample(learnt[:SAMPLE], device), in_batches(pooled, rest, device)
    ):
        chunk = learnt[first : first + len(features.tokens)]
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
) -> Plan:
    """Return which images make the batches: random ones, or neighbours of each other."""
    section, learnt = recipe.train, data.split.bank
    if not recipe.of_neighbours:
        return shuffled(
            learnt,
            batch_size=section.batch_size,
            parts=section.parts,
            repeats=recipe.data.repeats,
            seed=section.seed,
        )
    neighbours = kept_neighbours(work, teacher.pooled(learnt, device, progress))
    return neighbourly(
        learnt,
        neighbours,
        batch_size=section.batch_size,
        seed=section.seed,
    )


def _final_student(recipe: Recipe, models: Models) -> Student:
    """Return what is deployed: with `space = "teacher"` the map there is folded in."""
    if recipe.student.space == "student":
        return models.student
    layer = models.objective.to_teacher()
    assert layer is not None  # checked when the models were made
    return models.student.followed_by(layer).eval()


def work_folder(output: Path) -> Path:
    """Return where a run towards `output` keeps its checkpoint and its journal."""
    return output.with_name(output.name + ".work")
