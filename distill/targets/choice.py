"""The teacher that a recipe names."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from backbones import (
    Backbone,
    FeatureExtractor,
    ImportedNetwork,
    module_from_path,
    preprocessing_of,
)
from bundle import Images, Preprocessing, TeacherCard
from distill.recipe import Recipe
from distill.targets.given import given_embeddings
from distill.targets.network import NetworkTeacher
from distill.targets.teacher import GivenTeacher, Teacher
from distill.weights import pretrained


def teacher_from_recipe(recipe: Recipe, images: Images) -> Teacher:
    """Return the recipe's teacher for these images.

    Raises:
        UsageError: a model, its weights or embeddings are not to be had.
    """
    section = recipe.teacher
    if section.path is not None:
        return _given(Path(section.path), section.name, section.licence, images)
    assert section.name is not None  # the section sees to it
    if section.imported:
        return _imported(section.name, recipe, images)
    return _from_timm(section.name, recipe, images)


def _from_timm(name: str, recipe: Recipe, images: Images) -> NetworkTeacher:
    section, data = recipe.teacher, recipe.data
    source = pretrained(name, section.checkpoint, size=(data.size, data.size))
    preprocessing = preprocessing_of(name, data.size, data.crop)
    network = Backbone(source.model, preprocessing)
    card = _card(name, source.weights, section.licence or source.licence, network)
    return NetworkTeacher(network, card, images, preprocessing, recipe)


def _imported(name: str, recipe: Recipe, images: Images) -> NetworkTeacher:
    section, data = recipe.teacher, recipe.data
    module, source = module_from_path(name)
    document: dict[str, Any] = {
        "height": data.size,
        "width": data.size,
        "crop": data.crop,
        **section.normalisation,
    }
    preprocessing = Preprocessing.model_validate(document)
    network = ImportedNetwork(module, preprocessing)
    card = _card(name, "of its own", section.licence or "unknown", network)
    return NetworkTeacher(network, card, images, preprocessing, recipe, source=source)


def _card(name: str, weights: str, licence: str, network: FeatureExtractor) -> TeacherCard:
    return TeacherCard(
        architecture=name,
        weights=weights,
        licence=licence,
        width=network.width,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def _given(
    path: Path, name: str | None, licence: str | None, images: Images
) -> GivenTeacher:
    embeddings: Float[np.ndarray, "images d"] = given_embeddings(path, images)
    card = TeacherCard(
        architecture=name or path.stem,
        weights=path.name,
        licence=licence or "unknown",
        width=embeddings.shape[1],
        parameters=0,
    )
    return GivenTeacher(embeddings, card)
