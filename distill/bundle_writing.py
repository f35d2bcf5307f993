"""Write a run's bundle: the student, its detector and its evaluation."""

import importlib.metadata
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import safetensors.torch
import tomli_w
from torch import nn

from distill.embedding import RoleEmbeddings
from distill.evaluation.report_files import illustrations_of, write_evaluation
from distill.images.data import Data
from distill.recipe import Recipe
from distill.recipe.writing import portable
from distill.start.fitting import START, start_arrays
from distill.student_from_recipe import student_preprocessing
from distill.targets import BALANCE, Teacher
from isogon.bundle import (
    FALSE_ALARMS,
    FITTED,
    HELD_OUT,
    THUMBNAILS,
    TRAINING_DETECTOR,
    Bundle,
    FalseAlarms,
    FittedOn,
    Manifest,
    Provenance,
    StudentCard,
)
from isogon.bundle.evaluation import Evaluation
from isogon.bundle.names import portable_place
from isogon.images.collection import SAMPLES
from isogon.networks import WEIGHTS, Student
from isogon.ood import Calibration, Detector, DetectorSpec
from isogon.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedModels:
    """The models' embeddings of every role, and their evaluation."""

    teacher: RoleEmbeddings | None
    student: RoleEmbeddings
    evaluation: Evaluation
    layer: nn.Linear | None  # the closed-form layer that the student started from


def write_bundle(
    output: Path,
    recipe: Recipe,
    data: Data,
    teacher: Teacher,
    student: Student,
    student_card: StudentCard,
    judged: JudgedModels,
    progress: Progress,
) -> Bundle:
    """Write everything that later stages need; the bundle appears only if complete."""
    shipped = portable(recipe, output.parent)
    preprocessing = student_preprocessing(recipe)
    detector = recipe.ood.fit(judged.student.bank, data.familiar.labels(data.bank))
    manifest = Manifest(
        name=recipe.name,
        width=student.width,
        space=recipe.student.space,
        preprocessing=preprocessing,
        student=student_card,
        teacher=teacher.card,
        provenance=_provenance(shipped, data),
    )
    text = tomli_w.dumps(shipped.model_dump(mode="json", exclude_none=True))
    illustrations = illustrations_of(
        data,
        judged.teacher,
        judged.student,
        detector=recipe.ood,
        fitted=detector,
        manifest=manifest,
        recipe=text,
    )
    with Bundle.create(output, manifest) as writer:
        writer.write("recipe.toml", text)
        writer.write(WEIGHTS, _weights(student))
        if judged.layer is not None:
            writer.write_arrays(START, start_arrays(judged.layer))
        if teacher.kept:
            writer.write_arrays(BALANCE, teacher.kept)
        write_evaluation(writer, judged.evaluation, illustrations)
        if data.unreadable:
            left_out = _left_out(data, output.parent)
            writer.write("unreadable.json", json.dumps(left_out, indent=2))
        writer.write("ood/detector.json", recipe.ood)
        fitted_on = FittedOn(images=shipped.data.images, bank=len(data.bank))
        writer.write(f"{TRAINING_DETECTOR}/{FITTED}", fitted_on)
        writer.write_arrays("ood/reference.safetensors", detector.arrays())
        alarms = _false_alarms(judged.student, recipe.ood, detector)
        if alarms is not None:
            writer.write(FALSE_ALARMS, alarms)
        writer.write_arrays(HELD_OUT, data.held_out_pixels(preprocessing, progress))
        writer.write_arrays(SAMPLES, data.sample_pixels(preprocessing, progress))
        if recipe.data.thumbnails:
            limit = recipe.data.thumbnails
            thumbnails = data.thumbnails(
                judged.student.bank, limit, preprocessing, progress
            )
            writer.write(THUMBNAILS, thumbnails.to_bytes())
    return Bundle.open(output)


def _left_out(data: Data, folder: Path) -> dict[str, dict[str, str]]:
    """Return why images were left out, by source and name, with portable paths."""
    place = partial(portable_place, folder=folder)
    return {
        place(source): {
            # A reason begins with the source and the name.
            place(name): reason.replace(source, place(source)).replace(name, place(name))
            for name, reason in faults.items()
        }
        for source, faults in data.unreadable.items()
    }


def _false_alarms(
    student: RoleEmbeddings, spec: DetectorSpec, detector: Detector
) -> FalseAlarms | None:
    """Return how many test images the detector flags, calibrated as artifacts are."""
    if student.calibration is None:
        return None
    calibration = Calibration.from_scores(detector.score(student.calibration), spec.alpha)
    return FalseAlarms.measured(
        calibration.is_ood(detector.score(student.test)), spec.alpha
    )


def _weights(student: Student) -> bytes:
    state = {  # copies: a user's network may share tensors, or have non-contiguous ones
        name: value.detach().cpu().contiguous().clone()
        for name, value in student.state_dict().items()
    }
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
