import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress

from backbones import Student
from bundle import Bundle, ImageFolder, UsageError
from distill import Recipe
from distill.checkpoint import Checkpoint
from distill.data import prepare_data
from distill.distillation import distill, work_folder
from distill.evaluation import Evaluation
from distill.loading import TrainingViews
from distill.preparation import Models, prepare_models
from distill.trainer import train


def views(recipe: Recipe, progress: Progress, workers: int = 0) -> TrainingViews:
    data = prepare_data(recipe, progress)
    return TrainingViews(
        data.familiar,
        data.split.bank,
        recipe.data,
        batch_size=recipe.train.batch_size,
        workers=workers,
        seed=0,
    )


def models(recipe: Recipe) -> Models:
    torch.manual_seed(0)
    return prepare_models(recipe)


def learn(
    made: Models,
    recipe: Recipe,
    checkpoint: Checkpoint,
    progress: Progress,
    **changes: object,
) -> None:
    """Train these models by the recipe, its [train] section changed."""
    section = recipe.train.model_copy(update=changes)
    batches = views(recipe, progress)
    train(
        made.student, made.teacher, made.objective, batches, section, checkpoint, progress
    )


def trained(recipe: Recipe, folder: Path, progress: Progress) -> Student:
    made = models(recipe)
    learn(made, recipe, Checkpoint(folder, recipe, ("names",)), progress)
    return made.student


def test_views_depend_on_seed_epoch_and_image_alone(
    recipe: Recipe, progress: Progress
) -> None:
    first = list(views(recipe, progress).epoch(1))
    torch.manual_seed(99)
    again = list(views(recipe, progress, workers=2).epoch(1))
    other = next(iter(views(recipe, progress).epoch(2)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other)


def test_reading_a_view_leaves_the_generators_alone(
    recipe: Recipe, progress: Progress
) -> None:
    batches = views(recipe, progress).epoch(0)
    next(batches)  # the loader itself draws once, when it starts
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(batches)
    assert torch.equal(torch.rand(3), expected)


def test_training_lowers_the_loss(exported: Path) -> None:
    bundle = Bundle.open(exported)
    logs = bundle.record("evaluation.json", Evaluation).training.terms
    assert sum(logs[-1].values()) < sum(logs[0].values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_student_and_the_head_learn_and_the_teacher_does_not(
    recipe: Recipe, tmp_path: Path, progress: Progress, precision: str
) -> None:
    made = models(recipe)

    def parameters() -> dict[str, dict[str, torch.Tensor]]:
        networks = {
            "teacher": made.teacher,
            "student": made.student,
            "head": made.objective,
        }
        return {
            role: {name: value.detach().clone() for name, value in net.named_parameters()}
            for role, net in networks.items()
        }

    before = parameters()
    checkpoint = Checkpoint(tmp_path / "work", recipe, ("names",))
    changes = {"epochs": 1, "warmup_epochs": 0, "precision": precision}
    learn(made, recipe, checkpoint, progress, **changes)
    after = parameters()
    for role, moved in (("teacher", False), ("student", True), ("head", True)):
        for name, value in before[role].items():
            assert torch.equal(after[role][name], value) != moved, (role, name)


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    class InterruptedError(Exception):
        pass

    class StopsAfterOne(Checkpoint):
        def save(self, state: dict[str, object]) -> None:
            super().save(state)
            raise InterruptedError

    made = models(recipe)
    arguments = (made.student, made.teacher, made.objective, views(recipe, progress))
    with pytest.raises(InterruptedError):
        train(
            *arguments,
            recipe.train,
            StopsAfterOne(tmp_path / "a", recipe, ("names",)),
            progress,
        )
    resumed = trained(recipe, tmp_path / "a", progress)
    straight = trained(recipe, tmp_path / "b", progress)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_checkpoint_of_another_run_is_not_continued(
    recipe: Recipe, tmp_path: Path
) -> None:
    Checkpoint(tmp_path, recipe, ("a",)).save({})
    assert Checkpoint(tmp_path, recipe, ("a",)).load() == {}
    with pytest.raises(UsageError, match="another recipe or other images"):
        Checkpoint(tmp_path, recipe, ("b",)).load()


def test_a_loss_that_is_not_finite_stops_with_a_remedy(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    made = models(recipe)
    for parameter in made.student.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(UsageError, match=r"not finite at step 0.*Lower `learning_rate`"):
        train(
            made.student,
            made.teacher,
            made.objective,
            views(recipe, progress),
            recipe.train,
            Checkpoint(tmp_path, recipe, ()),
            progress,
        )


def test_the_bundle_holds_the_students_weights_and_nothing_else(exported: Path) -> None:
    bundle = Bundle.open(exported)
    arrays = bundle.arrays("model.safetensors")
    assert {name.split(".")[0] for name in arrays} == {"backbone", "embedding"}
    counted = sum(
        v.size for n, v in arrays.items() if "running" not in n and "num" not in n
    )
    assert counted == bundle.manifest.student.parameters


def test_no_held_out_image_is_in_the_bank(
    recipe: Recipe, exported: Path, progress: Progress
) -> None:
    data = prepare_data(recipe, progress)
    assert not set(data.bank) & (set(data.split.calibration) | set(data.split.test))
    bundle = Bundle.open(exported)
    assert len(bundle.arrays("held_out.safetensors")["familiar"]) == len(
        data.split.calibration
    )
    assert len(bundle.arrays("ood/reference.safetensors")["bank"]) == len(data.bank)


def test_a_finished_run_leaves_no_work_behind(exported: Path) -> None:
    assert not work_folder(exported).exists()


def test_an_existing_output_is_refused_before_any_work(
    recipe: Recipe, exported: Path, progress: Progress
) -> None:
    with pytest.raises(UsageError, match="never overwritten"):
        distill(recipe, exported, progress)


def test_what_does_not_shape_the_weights_may_change_between_runs(
    recipe: Recipe, tmp_path: Path
) -> None:
    Checkpoint(tmp_path, recipe, ("a",)).save({})
    document = recipe.model_dump()
    document["ood"]["k"] = 3
    document["train"]["workers"] = 1
    document["unfamiliar"] = []
    assert Checkpoint(tmp_path, Recipe.model_validate(document), ("a",)).load() == {}
    document["train"]["learning_rate"] = 1.0
    with pytest.raises(UsageError, match="another recipe"):
        Checkpoint(tmp_path, Recipe.model_validate(document), ("a",)).load()


@pytest.mark.parametrize(
    ("ood", "says"),
    [({"k": 5000}, "k = 5000 needs a bank"), ({"name": "relative_mahalanobis"}, "labels")],
)
def test_an_impossible_detector_is_refused_before_training(
    recipe: Recipe, flat_digits: Path, progress: Progress, ood: dict[str, object], says: str
) -> None:
    document = recipe.model_dump()
    document["ood"] |= ood
    document["data"]["images"] = str(flat_digits)
    with pytest.raises(UsageError, match=says):
        prepare_data(Recipe.model_validate(document), progress)


def test_a_subspace_as_wide_as_the_student_is_refused_before_training(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    document = recipe.model_dump()
    document["ood"] |= {"name": "vim", "dim": 32}
    with pytest.raises(UsageError, match="got dim = 32 and width 32"):
        distill(Recipe.model_validate(document), tmp_path / "vim.isogon", progress)
    assert not list(tmp_path.iterdir())


def test_an_unreadable_unfamiliar_image_is_left_out(
    recipe: Recipe, photographs: Path, tmp_path: Path, progress: Progress
) -> None:
    folder = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (folder / "broken.jpg").write_bytes(b"broken")
    document = recipe.model_dump()
    document["unfamiliar"][0]["images"] = str(folder)
    data = prepare_data(Recipe.model_validate(document), progress)
    found = data.unfamiliar["photographs"]
    assert len(found.flaggable) == len(found.images) - 1


@pytest.mark.parametrize(
    "objective", ["cospress", "isogon", "vkd", "coss", "rkd", "proteus", "cosine"]
)
def test_a_transformer_learns_from_a_transformer(
    recipe: Recipe, tmp_path: Path, progress: Progress, objective: str
) -> None:
    import safetensors.torch
    import timm

    path = tmp_path / "teacher.safetensors"
    safetensors.torch.save_file(timm.create_model("test_vit2").state_dict(), path)
    document = recipe.model_dump() | {
        "teacher": {"name": "test_vit2", "checkpoint": str(path)},
        "student": {"name": "test_vit"},
        "objective": [{"name": objective}],
    }
    document["data"] = document["data"] | {"size": 64}
    document["train"] = document["train"] | {"epochs": 1, "warmup_epochs": 0}
    bundle = distill(Recipe.model_validate(document), tmp_path / "vit.isogon", progress)
    assert not bundle.manifest.student.embedding_layer
    assert bundle.manifest.width == 64


def test_a_folder_without_classes_needs_no_labels(
    recipe: Recipe, tmp_path: Path, flat_digits: Path, progress: Progress
) -> None:
    document = recipe.model_dump()
    document["data"]["images"] = str(flat_digits)
    document["unfamiliar"] = []
    bundle = distill(Recipe.model_validate(document), tmp_path / "f.isogon", progress)
    evaluation = bundle.record("evaluation.json", Evaluation)
    assert evaluation.student.knn_accuracy is None
    assert evaluation.student.linear_accuracy is None
    assert evaluation.student.ood == {}
    assert bundle.manifest.provenance.classes == ()


def test_crops_of_evaluation_are_those_of_deployment(
    recipe: Recipe, exported: Path, digits: Path
) -> None:
    from distill.loading import plain_crops

    preprocessing = Bundle.open(exported).manifest.preprocessing
    folder = ImageFolder.list(digits)
    (batch,) = plain_crops(folder, np.arange(3), preprocessing)
    for number in range(3):
        assert np.array_equal(batch[number], preprocessing.pixels(folder.image(number)))
