"""Distil: a recipe and a folder of images become a bundle."""

import importlib.metadata
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors.torch
import tomli_w
import torch
from lightning_fabric import Fabric
from rich.progress import Progress

from backbones import WEIGHTS, Features, Student
from bundle import Bundle, Manifest, Preprocessing, Provenance, require_absent
from distill.checkpoint import Checkpoint
from distill.data import Data, prepare_data
from distill.embedding import Embedded, embed_roles
from distill.evaluation import Evaluation, Training
from distill.evaluation.drawing import drawn_from, write_evaluation
from distill.evaluation.evaluate import evaluate
from distill.loading import TrainingViews, plain_crops, shuffled
from distill.objectives.objective import SAMPLE, Labels
from distill.preparation import (
    Models,
    prepare_models,
    preprocessing_for,
)
from distill.processes import launched, parts_of
from distill.recipe import Recipe
from distill.targets import OnlineTargets
from distill.trainer import Trainer
from distill.views import Views


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
        UsageError: something is at `output`, or the images or models do not do.
    """
    require_absent(output)
    fabric = launched(recipe.train)
    torch.manual_seed(recipe.train.seed)
    data = prepare_data(recipe, progress, work_folder(output))
    models = prepare_models(recipe)
    preprocessing = preprocessing_for(recipe, recipe.student.name)
    checkpoint = Checkpoint(
        work_folder(output), recipe, data.trained, accept_changes=accept_changes
    )
    if models.objective.start_on != "nothing" and not checkpoint.path.exists():
        models.objective.start(_teacher_features(models, data, preprocessing, progress))
    trainer = Trainer(
        fabric,
        models.student,
        models.objective,
        OnlineTargets(models.teacher),
        _views(recipe, data, fabric),
        recipe.train,
        checkpoint,
        progress,
    )
    log = trainer.run()
    if not fabric.is_global_zero:
        raise SystemExit(0)
    teacher, student = embed_roles(
        [lambda pixels: models.teacher(pixels).pooled, models.student.embed],
        data,
        preprocessing,
        progress,
        device=fabric.device,
        workers=recipe.train.workers,
    )
    evaluation = evaluate(
        data, teacher, student, detector=recipe.ood, training=Training(terms=log.epochs)
    )
    bundle = _write(recipe, output, data, models, teacher, student, evaluation, progress)
    checkpoint.remove()
    return bundle


def _views(recipe: Recipe, data: Data, fabric: Fabric) -> TrainingViews:
    section = recipe.train
    plan = shuffled(
        data.split.bank,
        batch_size=section.batch_size,
        parts=section.parts,
        repeats=recipe.data.repeats,
        seed=section.seed,
    )
    return TrainingViews(
        Views(data.familiar, recipe.data, section.seed),
        plan,
        labels=data.familiar.labels(np.arange(len(data.familiar))),
        workers=section.workers,
        parts=section.parts,
        mine=parts_of(fabric, section.accumulate),
        repeats=recipe.data.repeats,
    )


def _teacher_features(
    models: Models, data: Data, preprocessing: Preprocessing, progress: Progress
) -> Iterator[tuple[Features, Labels]]:
    """Yield the teacher's features and the labels of training images, as they are."""
    everything = models.objective.start_on == "everything"
    indices = data.split.bank if everything else data.split.bank[:SAMPLE]
    crops = plain_crops(data.familiar, indices, preprocessing)
    numbers = data.familiar.labels(indices)
    first = 0
    for pixels in progress.track(crops, description="Starting from the teacher"):
        chunk = slice(first, first := first + len(pixels))
        labels = None if numbers is None else torch.from_numpy(numbers[chunk])
        with torch.inference_mode():  # not around the yield, which may be the last
            features = models.teacher(pixels)
        yield features, labels


def work_folder(output: Path) -> Path:
    """Return where a run towards `output` keeps its checkpoint and its journal."""
    return output.with_name(output.name + ".work")


def _write(
    recipe: Recipe,
    output: Path,
    data: Data,
    models: Models,
    teacher: Embedded,
    student: Embedded,
    evaluation: Evaluation,
    progress: Progress,
) -> Bundle:
    preprocessing = preprocessing_for(recipe, recipe.student.name)
    detector = recipe.ood.fit(student.bank, data.familiar.labels(data.bank))
    manifest = Manifest(
        name=recipe.name,
        width=models.student.width,
        preprocessing=preprocessing,
        student=models.student_card,
        teacher=models.teacher_card,
        provenance=_provenance(recipe, data),
    )
    text = tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
    drawn = drawn_from(
        data, teacher, student, detector=recipe.ood, manifest=manifest, recipe=text
    )
    with Bundle.create(output, manifest) as writer:
        writer.write("recipe.toml", text)
        writer.write(WEIGHTS, _weights(models.student))
        write_evaluation(writer, evaluation, drawn)
        if data.unreadable:
            writer.write("unreadable.json", json.dumps(data.unreadable, indent=2))
        writer.write("ood/detector.json", recipe.ood)
        writer.write_arrays("ood/reference.safetensors", detector.arrays())
        writer.write_arrays(
            "held_out.safetensors", data.held_out_pixels(preprocessing, progress)
        )
    return Bundle.open(output)


def _weights(student: Student) -> bytes:
    state = {name: value.cpu() for name, value in student.state_dict().items()}
    return safetensors.torch.save(state)


def _provenance(recipe: Recipe, data: Data) -> Provenance:
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        images=recipe.data.images,
        image_count=len(data.familiar),
        classes=data.familiar.classes,
        seed=recipe.train.seed,
        versions={
            package: importlib.metadata.version(package)
            for package in ("isogon", "lightning-fabric", "timm", "torch")
        },
    )
