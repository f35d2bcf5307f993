"""The teacher that a recipe names."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from distill.recipe import Recipe, TeacherSection
from distill.recipe.sections import own_preprocessing
from distill.targets.given import GivenTeacher, given_embeddings
from distill.targets.joint import JointTeacher
from distill.targets.network import NetworkTeacher
from distill.targets.teacher import Teacher
from distill.weights import pretrained
from isogon.bundle import TeacherCard
from isogon.images import Images
from isogon.networks import (
    Backbone,
    FeatureExtractor,
    ImportedNetwork,
    module_from_path,
    preprocessing_of,
)


def teacher_from_recipe(recipe: Recipe, images: Images) -> Teacher:
    """Return the recipe's teacher for these images; several tables give a joint teacher.

    Raises:
        UsageError: a model, its weights or embeddings cannot be loaded.
    """
    teachers = [_one(section, recipe, images) for section in recipe.teachers]
    if len(teachers) == 1:
        return teachers[0]
    return JointTeacher(teachers, Path(recipe.teachers[0].cache))


def _one(section: TeacherSection, recipe: Recipe, images: Images) -> Teacher:
    if section.path is not None:
        return _given(Path(section.path), section.name, section.license, images)
    assert section.name is not None  # `TeacherSection` requires it
    if section.imported:
        return _imported(section.name, section, recipe, images)
    return _from_timm(section.name, section, recipe, images)


def _from_timm(
    name: str, section: TeacherSection, recipe: Recipe, images: Images
) -> NetworkTeacher:
    size = section.size or recipe.data.size
    source = pretrained(name, section.checkpoint, size=(size, size))
    preprocessing = preprocessing_of(name, size, recipe.data.crop)
    network = Backbone(source.model, preprocessing)
    licence = section.license or source.licence
    card = _card(name, source.weights, licence, section, network)
    return NetworkTeacher(network, card, images, preprocessing, section, recipe)


def _imported(
    name: str, section: TeacherSection, recipe: Recipe, images: Images
) -> NetworkTeacher:
    size = section.size or recipe.data.size
    module, source = module_from_path(name)
    preprocessing = own_preprocessing(
        section.mean, section.std, size=size, crop=recipe.data.crop
    )
    network = ImportedNetwork(module, preprocessing)
    card = _card(name, "of its own", section.license or "unknown", section, network)
    return NetworkTeacher(
        network, card, images, preprocessing, section, recipe, source=source
    )


def _card(
    name: str,
    weights: str,
    licence: str,
    section: TeacherSection,
    network: FeatureExtractor,
) -> TeacherCard:
    return TeacherCard(
        architecture=name,
        weights=weights,
        licence=licence,
        width=network.width,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        size=section.size,
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
