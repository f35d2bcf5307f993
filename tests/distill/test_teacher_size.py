"""A teacher that sees each image at another size than the student."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress

from distill import Recipe
from distill.distillation import distill
from distill.embedding import embed_all
from distill.evaluation.comparison import unfair
from distill.evaluation.corruptions import CorruptionChoice, embed_corrupted
from distill.evaluation.reevaluation import reevaluate
from distill.images.data import prepare_data
from distill.images.loading import TrainingViews, shuffled_plan
from distill.images.views import Views
from distill.student_from_recipe import student_preprocessing
from distill.targets import NetworkTeacher, Targets, teacher_from_recipe
from distill.targets.store import FEATURES, RECORD
from isogon.bundle import Bundle
from isogon.bundle.evaluation import Evaluation
from isogon.errors import UsageError
from isogon.images import ImageFolder

CPU = torch.device("cpu")


def with_teacher(
    recipe: Recipe, *, data: dict[str, Any] | None = None, **keys: Any
) -> Recipe:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] |= keys
    document["data"] |= data or {}
    return Recipe.model_validate(document)


def teacher_of(recipe: Recipe) -> NetworkTeacher:
    teacher = teacher_from_recipe(recipe, ImageFolder.list(Path(recipe.data.images)))
    assert isinstance(teacher, NetworkTeacher)
    return teacher


def views_for(recipe: Recipe, targets: Targets) -> Views:
    images = ImageFolder.list(Path(recipe.data.images))
    sizes = [recipe.data.size, *targets.sizes]
    return Views(images, recipe.data, recipe.train.seed, sizes=sizes)


@pytest.mark.parametrize("features", ["online", "embedding", "tokens"])
def test_its_features_are_of_the_students_views_at_its_own_size(
    recipe: Recipe, tmp_path: Path, progress: Progress, features: str
) -> None:
    stored = {} if features == "online" else {"views": 2}
    keys = {"size": 64, "features": features, "cache": str(tmp_path)} | stored
    augmented = {"erase": 0.5, "augment": "rand-m9-mstd0.5-inc1"}
    sized = with_teacher(recipe, data=augmented, **keys)
    teacher, indices = teacher_of(sized), np.arange(16)
    targets = teacher.targets(indices, CPU, progress)
    views = views_for(sized, targets)
    # Where features are stored no view is made for the teacher again.
    assert views.sizes == ((32, 64) if features == "online" else (32,))
    both = Views(teacher._images, sized.data, sized.train.seed, sizes=[64])
    batches = TrainingViews(
        views,
        shuffled_plan(indices, batch_size=8, parts=1, repeats=1, seed=0),
        labels=None,
        workers=0,
        replayed=targets.replayed,
    )
    for (batch,) in batches.epoch(1):
        keys_of_views = zip(batch.indices.tolist(), batch.numbers.tolist(), strict=True)
        pixels = torch.stack([both[view][0] for view in keys_of_views])
        with torch.no_grad():
            expected = teacher.network(pixels)
        found = targets.features(batch)
        assert batch.pixels.shape[1:3] == (32, 32)
        assert found.grid == ((0, 0) if features == "embedding" else (2, 2))
        tokens = expected.tokens[:, : found.tokens.shape[1]]
        assert torch.allclose(found.tokens, tokens, rtol=1e-3, atol=1e-4)


def test_a_size_that_is_the_students_changes_nothing(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    stored = with_teacher(recipe, features="embedding", views=2, cache=str(tmp_path))
    for keys in ({}, {"size": 32}):
        targets = teacher_of(with_teacher(stored, **keys)).targets(
            np.arange(12), CPU, progress
        )
        assert targets.sizes == ()
    assert len(list(tmp_path.glob(f"*/{RECORD}"))) == 1
    online = teacher_of(with_teacher(recipe, size=32)).targets(np.arange(12), CPU, progress)
    assert views_for(recipe, online).sizes == (32,)


def test_students_of_all_sizes_share_a_store_unless_views_are_drawn_at_theirs(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    def stores(**data: Any) -> list[Path]:
        cache = tmp_path / "_".join(data)
        for size in (24, 32):
            sized = with_teacher(
                recipe,
                data=data | {"size": size},
                size=48,
                features="embedding",
                views=1,
                cache=str(cache),
            )
            teacher_of(sized).targets(np.arange(8), CPU, progress)
        return sorted(cache.glob(f"*/{FEATURES}"))

    assert len(stores(flip=0.5)) == 1
    for key in ("erase", "blur"):
        assert len(stores(**{key: 1.0})) == 2


class Counted(ImageFolder):
    """A folder that counts the images that are read."""

    read: ClassVar[list[int]] = []

    def image(self, index: int) -> Image.Image:
        self.read.append(index)
        return super().image(index)


@pytest.mark.slow
def test_plain_crops_are_read_once_and_shown_to_each_model_at_its_size(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    sized = with_teacher(recipe, size=64, cache=str(tmp_path))
    data = prepare_data(sized, progress)
    counted = Counted.list(Path(recipe.data.images))
    data = dataclasses.replace(data, familiar=counted, held_out=counted)
    teacher = teacher_of(sized)
    crop = student_preprocessing(sized)

    def student(pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[1:3] == (32, 32)
        return pixels.float().mean((1, 2)) + 1

    found = embed_all(teacher, student, None, data, crop, progress, device=CPU, workers=0)
    theirs, ours = found.teacher, found.student
    roles = data.bank, data.split.test, data.split.calibration
    assert sorted(Counted.read) == sorted(np.concatenate(roles).tolist())
    assert theirs is not None
    pooled = teacher.pooled(data.bank, CPU, progress).astype(np.float32)
    assert teacher.preprocessing.height == 64
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(theirs.bank, pooled, atol=1e-3)
    assert len(ours.bank) == len(pooled)

    choice = CorruptionChoice(images=3, severities=(3,))
    both = embed_corrupted(
        [student, teacher.embed], data, crop, choice, progress, device=CPU, workers=0
    )
    (alone,) = embed_corrupted(
        [student], data, crop, choice, progress, device=CPU, workers=0
    )
    assert np.array_equal(both[0].vectors, alone.vectors)
    assert both[1].vectors.shape[2:] == (3, 1280)


@pytest.mark.slow
def test_a_bundle_names_the_size_and_is_evaluated_again_with_it(
    recipe: Recipe, exported: Path, tmp_path: Path, progress: Progress
) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"]["size"] = 48
    document["train"]["epochs"] = 1
    document["train"]["warmup_epochs"] = 0
    sized = Recipe.model_validate(document)
    bundle = distill(sized, tmp_path / "sized.isogon", progress)
    before = bundle.record("evaluation.json", Evaluation)
    assert (bundle.manifest.teacher.size, bundle.manifest.preprocessing.height) == (48, 32)
    again = reevaluate(
        bundle, progress, corruptions=CorruptionChoice(images=2, severities=(1,))
    )
    assert before.fidelity is not None and again.fidelity is not None
    kept = before.fidelity.model_dump()
    assert again.fidelity.model_dump() == pytest.approx(kept, abs=1e-6)
    assert again.teacher is not None and again.teacher.corruptions is not None
    plain = Bundle.open(exported)
    assert plain.manifest.teacher.size is None
    assert b'"size"' not in (exported / "manifest.json").read_bytes()
    subjects = {
        name: (one.manifest, one.record("evaluation.json", Evaluation))
        for name, one in (("sized", bundle), ("plain", plain))
    }
    assert any("sized: 48; plain: 32" in reason for reason in unfair(subjects))


@pytest.mark.parametrize(
    ("section", "keys", "says"),
    [
        ("teacher", {"name": "vit_small_patch14_dinov2"}, r"128.*126 and 140.*\[teacher\]"),
        ("student", {"name": "convnext_atto"}, r"34 x 34.*32 and 36.*\[data\]"),
    ],
)
def test_a_size_that_does_not_do_is_refused_before_an_image_is_read(
    recipe: Recipe,
    tmp_path: Path,
    progress: Progress,
    section: str,
    keys: dict[str, Any],
    says: str,
) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "empty").mkdir()
    document["data"] |= {"images": str(tmp_path / "empty"), "size": 34}
    document["teacher"]["size"] = 128
    document[section] = keys | ({"size": 128} if section == "teacher" else {})
    with pytest.raises(UsageError, match=says):
        distill(Recipe.model_validate(document), tmp_path / "s.isogon", progress)


def test_given_embeddings_have_no_size(recipe: Recipe) -> None:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = {"path": "x.npy", "size": 64}
    with pytest.raises(ValueError, match="leave out `size` with `path`"):
        Recipe.model_validate(document)
