"""Distil: a recipe and a folder of images become a bundle."""

import importlib.metadata
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import tomli_w
import torch
from rich.progress import Progress

from backbones import WEIGHTS, Features, Student
from bundle import Bundle, Manifest, Preprocessing, Provenance, require_absent
from distill.checkpoint import Checkpoint
from distill.data import Data, prepare_data
from distill.embedding import Embedded, embed_roles
from distill.evaluation import Evaluation, Training
from distill.evaluation.drawing import drawn_from, write_evaluation
from distill.evaluation.evaluate import evaluate
from distill.loading import TrainingViews, plain_crops
from distill.preparation import (
    Models,
    prepare_models,
    preprocessing_for,
)
from distill.recipe import Recipe
from distill.trainer import train

_START_IMAGES = 2048  # enough for the second moments of the teacher's tokens


def distill(recipe: Recipe, output: Path, progress: Progress) -> Bundle:
    """Run `recipe` and write the bundle `output`; an interrupted run is continued.

    Raises:
        UsageError: something is at `output`, or the images or models do not do.
    """
    require_absent(output)
    torch.manual_seed(recipe.train.seed)
    data = prepare_data(recipe, progress, work_folder(output))
    models = prepare_models(recipe)
    recipe.ood.require_possible(
        len(data.bank), bool(data.familiar.classes), models.student.width
    )
    preprocessing = preprocessing_for(recipe, recipe.student.name)
    checkpoint = Checkpoint(work_folder(output), recipe, data.trained)
    if models.objective.wants_start and not checkpoint.path.exists():
        models.objective.start(_teacher_features(models, data, preprocessing, progress))
    logs = train(
        models.student,
        models.teacher,
        models.objective,
        TrainingViews(
            data.familiar,
            data.split.bank,
            recipe.data,
            batch_size=recipe.train.batch_size,
            workers=recipe.train.workers,
            seed=recipe.train.seed,
        ),
        recipe.train,
        checkpoint,
        progress,
    )
    teacher, student = embed_roles(
        [lambda pixels: models.teacher(pixels).pooled, models.student.embed],
        data,
        preprocessing,
        progress,
        device=next(models.student.parameters()).device,
        workers=recipe.train.workers,
    )
    evaluation = evaluate(
        data, teacher, student, detector=recipe.ood, training=Training(terms=logs)
    )
    bundle = _write(recipe, output, data, models, teacher, student, evaluation, progress)
    checkpoint.remove()
    return bundle


def _teacher_features(
    models: Models, data: Data, preprocessing: Preprocessing, progress: Progress
) -> Iterator[Features]:
    """Yield the teacher's features of training images, without augmentation."""
    crops = plain_crops(data.familiar, data.split.bank[:_START_IMAGES], preprocessing)
    with torch.inference_mode():
        for pixels in progress.track(crops, description="Starting from the teacher"):
            yield models.teacher(pixels)


def work_folder(output: Path) -> Path:
    """Return where a run towards `output` keeps its checkpoint until it is done."""
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
