"""Checks of a run's models and numbers, before any image is read or feature computed."""

from pathlib import Path

import torch

from distill.images.loading import global_batch
from distill.images.neighbours import AMONG, require_neighbour_batches
from distill.images.pseudo_classes import require_clusters
from distill.recipe import Recipe, TeacherSection
from distill.recipe.sections import own_preprocessing
from distill.student_from_recipe import require_trainable, student_from_recipe
from distill.weights import PACKAGE, pretrained, require_package
from isogon.errors import UsageError
from isogon.networks import (
    Backbone,
    ImportedNetwork,
    module_from_path,
    preprocessing_of,
    require_size,
)


def require_models(recipe: Recipe) -> None:
    """Refuse models that cannot be loaded or are unsuitable, within seconds.

    Each is made as in the run and dropped again; the user's own networks are tried on a few
    images of noise. The run's random numbers are not changed.

    Raises:
        UsageError: a teacher or the student is unsuitable.
    """
    _require_sizes(recipe)
    with torch.random.fork_rng(devices=[]):
        for section in recipe.teachers:
            _require_teacher(section, section.size or recipe.data.size)
        student, _ = student_from_recipe(recipe)
        if recipe.student.imported:
            size = recipe.data.size, recipe.data.size
            require_trainable(student, recipe.student.name, size)
            _require_blocks(recipe, student.backbone.plain)


def require_enough(recipe: Recipe, images: int) -> None:
    """Refuse too few training images, before the teacher's features are computed.

    Raises:
        UsageError: there are too few images for a batch, or for the pseudo-classes.
    """
    size = recipe.train.batch_size
    if recipe.of_neighbours:
        require_neighbour_batches(images, min(AMONG, images - 1), size)
    else:
        global_batch(images, size, recipe.train.parts)
    if recipe.data.pseudo_classes:
        require_clusters(images, recipe.data.pseudo_classes)


def _require_sizes(recipe: Recipe) -> None:
    """Refuse image sizes that a timm model does not support, or would crop.

    A user's own network is tried when it is made.

    Raises:
        UsageError: names the nearest supported sizes.
    """
    size = recipe.data.size
    if not recipe.student.imported:
        require_size(recipe.student.name, size, where="`size` in [data]")
    for section in recipe.teachers:
        if section.name is None or section.path is not None or section.imported:
            continue
        require_size(section.name, section.size or size, where="`size` in [teacher]")


def _require_teacher(section: TeacherSection, side: int) -> None:
    if section.path is not None:
        if not Path(section.path).is_file():
            raise UsageError(
                f"There are no embeddings at {section.path}; see `path` in [teacher]."
            )
        return
    assert section.name is not None  # `TeacherSection` requires it
    if section.imported:
        network, _ = module_from_path(section.name)
        ImportedNetwork(network, own_preprocessing(section.mean, section.std, size=side))
        return
    checkpoint = section.checkpoint
    if checkpoint is not None and checkpoint.startswith(PACKAGE):
        require_package(section.name, checkpoint.removeprefix(PACKAGE))
        return  # these weights fit
    model = pretrained(section.name, checkpoint, size=(side, side)).model
    Backbone(model, preprocessing_of(section.name, side, 1.0))


def _require_blocks(recipe: Recipe, network: torch.nn.Module) -> None:
    if recipe.train.layer_decay != 1 and not hasattr(network, "group_matcher"):
        raise UsageError(
            f"`layer_decay` in [train] needs the blocks of {recipe.student.name}: give it "
            f"a method `group_matcher`, as in timm's models, or leave `layer_decay` out."
        )
