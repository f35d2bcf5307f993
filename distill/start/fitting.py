"""The start of a run: fit the student's embedding layer in closed form, before any step.

The student's network before training is kept too, as a baseline for the evaluation.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float
from torch import nn

from distill.images.data import Data
from distill.images.loading import plain_crops
from distill.objectives import Objective
from distill.preparation import RunModels
from distill.recipe import Recipe
from distill.start.closed_form import closed_form, uncentred_pca
from distill.student_from_recipe import student_preprocessing
from distill.targets import NetworkTeacher
from isogon.bundle import Bundle, TeacherCard
from isogon.networks import FeatureExtractor, source_of
from isogon.ood.knn import directions
from isogon.progress import Progress, say

START = "start.safetensors"  # in the folder of a run, and in its bundle
_RE_ESTIMATED = 4096  # images for new batch statistics, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class UntrainedStudent:
    """The student's network before training, on the run's device, in evaluation mode."""

    backbone: FeatureExtractor
    layer: nn.Linear | None  # of the closed-form start; None for another start
    pretrained: bool  # whether the network had pretrained weights


def start_student(
    recipe: Recipe,
    data: Data,
    models: RunModels,
    work: Path,
    device: torch.device,
    progress: Progress,
    *,
    continued: bool,
) -> UntrainedStudent:
    """Set the student to its start, and return its network as it is there.

    With `start = "closed-form"` the embedding layer is fitted to the teacher, and the
    objective's heads are set accordingly. A continued run loads the layer from its folder;
    everything else is in its checkpoint.

    Args:
        recipe: its [student] says how to start.
        data: the layer is fitted on the images that steps learn from.
        models: student and objective are changed in place.
        work: the folder of the run.
        device: where networks run.
        progress: shows progress, and prints what was fitted.
        continued: whether the run continues from a checkpoint.
    """
    student = models.student
    if recipe.train.batch_statistics == "re-estimated":
        re_estimate(student.backbone, recipe, data, device, progress)
    before = copy.deepcopy(student.backbone).eval().requires_grad_(False).to(device)
    layer = None
    if recipe.student.in_closed_form:
        layer = student.embedding
        assert layer is not None  # `student_from_recipe` adds one
        kept = work / START
        if continued and kept.exists():
            safetensors.torch.load_model(layer, kept)
        else:
            _fit(layer, before, recipe, data, models, device, progress)
            work.mkdir(parents=True, exist_ok=True)
            # Every process writes the same content.
            pending = kept.with_suffix(f".{os.getpid()}")
            safetensors.torch.save_model(layer, str(pending))
            pending.replace(kept)
        layer = copy.deepcopy(layer).requires_grad_(False).to(device)
    return UntrainedStudent(
        backbone=before, layer=layer, pretrained=recipe.student.from_pretrained
    )


@torch.no_grad()
def re_estimate(
    backbone: FeatureExtractor,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: Progress,
) -> None:
    """Set the statistics of BatchNorm to their mean over plain crops of training images."""
    layers = [
        part
        for part in backbone.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.train()
    backbone.to(device)
    for pixels in _crops(recipe, data, progress):
        if len(pixels) > 1:
            backbone(pixels.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    backbone.eval().cpu()


def as_teacher(backbone: FeatureExtractor, recipe: Recipe, data: Data) -> NetworkTeacher:
    """Return the student's network before training as a teacher, to store its features.

    A teacher is a frozen network with stored features, which is what is needed here.
    """
    card = TeacherCard(
        architecture=recipe.student.name,
        weights="of the student, before training",
        licence="unknown",
        width=backbone.width,
        parameters=0,
    )
    crops = student_preprocessing(recipe)
    own = recipe.student.imported
    return NetworkTeacher(
        backbone,
        card,
        data.imitated,
        crops,
        recipe.teachers[0],
        recipe,
        source=source_of(recipe.student.name, "student") if own else None,
    )


def start_arrays(layer: nn.Linear) -> dict[str, np.ndarray]:
    """Return `weight` [d, native width] and `bias` [d], as a bundle stores them."""
    weight = layer.weight.detach().cpu().numpy()
    bias = np.zeros(len(weight), np.float32)
    if layer.bias is not None:
        bias = layer.bias.detach().cpu().numpy()
    return {"weight": weight, "bias": bias}


def start_from_bundle(bundle: Bundle) -> nn.Linear | None:
    """Return the closed-form layer of a bundle, if it has one."""
    if START not in bundle.manifest.files:
        return None
    arrays = bundle.arrays(START)
    weight, bias = (torch.from_numpy(arrays[name]) for name in ("weight", "bias"))
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def _fit(
    layer: nn.Linear,
    backbone: FeatureExtractor,
    recipe: Recipe,
    data: Data,
    models: RunModels,
    device: torch.device,
    progress: Progress,
) -> None:
    """Set the layer, and the heads of the objective to match."""
    ours = _pooled(backbone, recipe, data, device, progress)
    theirs = models.teacher.pooled(data.fitted, device, progress)
    count = len(data.fitted) - len(data.validation)
    features, teacher = (np.asarray(one[:count], np.float32) for one in (ours, theirs))
    # A vector of zeros, such as a drawing may have, has no direction.
    usable = features.any(axis=1) & teacher.any(axis=1)
    features, teacher = features[usable], teacher[usable]
    compression = uncentred_pca(teacher, layer.out_features)
    length = float(np.linalg.norm(teacher, axis=1).mean())
    models.objective.begin(torch.from_numpy(compression), length)
    found = closed_form(features, _targets(models.objective, teacher, compression), teacher)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(found.weight))
        layer.bias.zero_()
    say(
        progress,
        f"Closed-form start: the embedding layer is fitted to {len(features):,} images "
        f"by ridge regression (strength {found.strength:.2g} of the mean eigenvalue, by "
        f"cross-validation; {found.share:.0%} of the mean subtracted).",
    )


def _targets(
    objective: Objective,
    teacher: Float[np.ndarray, "n t"],
    compression: Float[np.ndarray, "s t"],
) -> Float[np.ndarray, "n s"]:
    targets = objective.student_targets(torch.from_numpy(teacher))
    if targets is not None:
        return targets.cpu().numpy()
    found: Float[np.ndarray, "n s"] = directions(teacher) @ compression.T
    return found


def _pooled(
    backbone: FeatureExtractor,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: Progress,
) -> Float[np.ndarray, "n features"]:
    """Return the network's pooled vectors of training images, computed once and stored."""
    network = as_teacher(backbone, recipe, data)
    pooled = network.pooled(data.fitted, device, progress)
    backbone.to(device)
    return pooled


def _crops(recipe: Recipe, data: Data, progress: Progress) -> Iterator[torch.Tensor]:
    crops = plain_crops(
        data.familiar,
        data.training[:_RE_ESTIMATED],
        student_preprocessing(recipe),
        workers=recipe.train.workers,
    )
    yield from progress.track(crops, description="Re-estimating batch statistics")
