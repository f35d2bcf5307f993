import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from rich.progress import Progress

from distill import Recipe
from distill.distillation import distill, work_folder
from distill.images.data import prepare_data
from distill.images.loading import TrainingViews, ViewBatch, shuffled_plan
from distill.images.views import Views
from distill.preparation import RunModels, prepare_models
from distill.recipe import TrainSection
from distill.targets import NetworkTeacher, OnlineTargets
from distill.training.checkpoint import Checkpoint
from distill.training.divergence_watch import DivergenceWatch
from distill.training.journal import Journal
from distill.training.processes import launched, parts_of
from distill.training.trainer import Trainer, TrainingLog
from isogon.bundle import Bundle
from isogon.bundle.evaluation import Evaluation
from isogon.errors import UsageError
from isogon.images import ImageFolder
from isogon.networks import FeatureExtractor, Features, Student

CPU = torch.device("cpu")


def views(
    recipe: Recipe,
    progress: Progress,
    *,
    workers: int = 0,
    parts: int = 1,
    mine: tuple[int, ...] = (0,),
    repeats: int = 1,
    replayed: int | None = None,
) -> TrainingViews:
    data = prepare_data(recipe, progress)
    plan = shuffled_plan(
        data.split.bank,
        batch_size=recipe.train.batch_size,
        parts=parts,
        repeats=repeats,
        seed=0,
    )
    return TrainingViews(
        Views(data.familiar, recipe.data, 0),
        plan,
        labels=data.familiar.labels(np.arange(len(data.familiar))),
        workers=workers,
        parts=parts,
        mine=mine,
        repeats=repeats,
        replayed=replayed,
    )


def pixels(steps: Iterable[tuple[ViewBatch, ...]]) -> list[torch.Tensor]:
    return [torch.cat([batch.pixels for batch in step]) for step in steps]


def models(recipe: Recipe) -> RunModels:
    torch.manual_seed(0)
    quiet = Progress(disable=True)
    return prepare_models(recipe, prepare_data(recipe, quiet), CPU, quiet)


def network(made: RunModels) -> FeatureExtractor:
    assert isinstance(made.teacher, NetworkTeacher)
    return made.teacher.network


def learn(
    made: RunModels,
    recipe: Recipe,
    checkpoint: Checkpoint,
    progress: Progress,
    **changes: object,
) -> TrainingLog:
    """Train these models by the recipe, its [train] section changed."""
    section = TrainSection.model_validate(recipe.train.model_dump() | changes)
    fabric = launched(section)
    batches = views(
        recipe, progress, parts=section.parts, mine=parts_of(fabric, section.accumulate)
    )
    targets = OnlineTargets(network(made))
    return Trainer(
        fabric,
        made.student,
        made.objective,
        targets,
        batches,
        section,
        checkpoint,
        progress,
    ).run()


def trained(recipe: Recipe, folder: Path, progress: Progress, **changes: object) -> Student:
    made = models(recipe)
    learn(made, recipe, Checkpoint(folder, recipe, ("names",)), progress, **changes)
    return made.student


def require_same_weights(one: Student, other: Student) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_views_depend_on_seed_epoch_and_image_alone(
    recipe: Recipe, progress: Progress
) -> None:
    first = pixels(views(recipe, progress).epoch(1))
    torch.manual_seed(99)
    again = pixels(views(recipe, progress, workers=2).epoch(1))
    other = pixels(views(recipe, progress).epoch(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_an_epoch_continues_from_any_step(recipe: Recipe, progress: Progress) -> None:
    batches = views(recipe, progress, workers=1)
    whole = pixels(batches.epoch(1))
    rest = pixels(batches.epoch(1, start=2))
    assert len(rest) == len(whole) - 2 == len(batches) - 2
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_parts_of_processes_and_micro_batches_make_up_the_global_batch(
    recipe: Recipe, progress: Progress
) -> None:
    (whole, *_) = pixels(views(recipe, progress, parts=4, mine=(0, 1, 2, 3)).epoch(0))
    (first, *_) = views(recipe, progress, parts=4, mine=(0, 2)).epoch(0)
    (second, *_) = views(recipe, progress, parts=4, mine=(1, 3)).epoch(0)
    parts = [first[0], second[0], first[1], second[1]]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole)


def test_labels_come_with_their_images(recipe: Recipe, progress: Progress) -> None:
    familiar = prepare_data(recipe, progress).familiar
    ((batch,), *_) = views(recipe, progress).epoch(0)
    assert batch.labels is not None
    assert batch.labels.tolist() == list(familiar.labels(batch.indices.numpy()))


def test_repeated_views_of_an_image_differ_and_replayed_ones_return(
    recipe: Recipe, progress: Progress
) -> None:
    ((batch,), *_) = views(recipe, progress, repeats=2).epoch(0)
    assert batch.indices[0] == batch.indices[1]
    assert batch.numbers[:2].tolist() == [0, 1]
    assert not torch.equal(batch.pixels[0], batch.pixels[1])
    replayed = views(recipe, progress, replayed=2)
    by_epoch = []
    for epoch in range(3):
        shown = {}
        for (batch,) in replayed.epoch(epoch):
            shown |= dict(zip(batch.indices.tolist(), batch.pixels, strict=True))
        by_epoch.append(shown)
    everywhere = set.intersection(*(set(shown) for shown in by_epoch))
    assert everywhere
    for index in everywhere:
        assert torch.equal(by_epoch[0][index], by_epoch[2][index])
        assert not torch.equal(by_epoch[0][index], by_epoch[1][index])


def test_reading_views_leaves_the_generators_alone(
    recipe: Recipe, progress: Progress
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pixels(views(recipe, progress).epoch(0))
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
            "teacher": network(made),
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


class StopError(Exception):
    pass


class StopsAfter(Checkpoint):
    """A checkpoint after which the run ends as if it were killed."""

    saves = 1

    def save(self, state: dict[str, object]) -> None:
        super().save(state)
        self.saves -= 1
        if not self.saves:
            raise StopError


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"ema_decay": 0.9, "clip_norm": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_weights_of_an_uninterrupted_one(
    recipe: Recipe, tmp_path: Path, progress: Progress, changes: dict[str, object]
) -> None:
    for saves in (1, 5):
        stopping = StopsAfter(tmp_path / "a", recipe, ("names",))
        stopping.saves = saves
        with pytest.raises(StopError):
            every_step = {"checkpoint_minutes": 0.0, **changes}
            learn(models(recipe), recipe, stopping, progress, **every_step)
    resumed = trained(recipe, tmp_path / "a", progress, **changes)
    straight = trained(recipe, tmp_path / "b", progress, **changes)
    require_same_weights(straight, resumed)
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps)), "steps are written twice"


def test_accumulated_micro_batches_make_the_step_of_one_batch(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    document = recipe.model_dump()
    # LayerNorm: no batch statistics.
    document["student"] = {"name": "test_vit", "width": 32}
    document["objective"] = [{"name": "cosine"}]  # a mean over images
    document["data"] |= {"size": 64}
    plain = Recipe.model_validate(document)
    changes = {"optimizer": "sgd", "epochs": 1, "warmup_epochs": 0, "learning_rate": 0.1}
    whole = trained(plain, tmp_path / "a", progress, **changes)
    parts = trained(plain, tmp_path / "b", progress, accumulate=2, **changes)
    for name, value in whole.state_dict().items():
        assert torch.allclose(parts.state_dict()[name], value, atol=1e-5), name


def test_gradients_are_clipped(recipe: Recipe, tmp_path: Path, progress: Progress) -> None:
    changes = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "epochs": 1,
        "warmup_epochs": 0,
        "learning_rate": 1.0,
        "final_learning_rate": 1.0,
        "batch_size": 1000,  # all images: one step
        "clip_norm": 1e-3,
    }
    document = recipe.model_dump()
    document["train"] |= changes
    before = models(recipe).student
    after = trained(Recipe.model_validate(document), tmp_path, progress, **changes)
    squares = [
        float(((new - old).detach() ** 2).sum())
        for old, new in zip(before.parameters(), after.parameters(), strict=True)
    ]
    assert 0 < sum(squares) ** 0.5 <= 1.01e-3


def test_the_moving_average_becomes_the_student(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    changes = {"epochs": 1, "warmup_epochs": 0}
    start = models(recipe).student.state_dict()
    last = trained(recipe, tmp_path / "a", progress, **changes).state_dict()
    average = trained(recipe, tmp_path / "b", progress, ema_decay=0.9999, **changes)
    name = "embedding.weight"
    moved = (last[name] - start[name]).norm()
    assert 0 < (average.state_dict()[name] - start[name]).norm() < moved


def test_milestones_divide_the_learning_rate(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    changes = {"milestones": (1,), "epochs": 2, "warmup_epochs": 0, "learning_rate": 0.01}
    trained(recipe, tmp_path, progress, **changes)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rates = {line["epoch"]: line["learning_rate"] for line in map(json.loads, lines)}
    assert rates == pytest.approx({0: 0.01, 1: 0.001})


def test_a_run_is_logged_for_people_and_tensorboard(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    made = models(recipe)
    log = learn(made, recipe, Checkpoint(tmp_path, recipe, ()), progress)
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = len(views(recipe, progress))
    assert [line["step"] for line in lines][-1] == recipe.train.epochs * steps - 1
    assert {"loss", "feature", "learning_rate", "images_per_second"} <= lines[0].keys()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert len(log.epochs) == recipe.train.epochs
    assert log.seconds_per_epoch > 0


def test_images_per_second_counts_those_that_are_there(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    document = recipe.model_dump()
    changes = {"epochs": 1, "warmup_epochs": 0, "batch_size": 1000}  # one step
    document["train"] |= changes
    large = Recipe.model_validate(document)
    checkpoint = Checkpoint(tmp_path, large, ())
    log = learn(models(large), large, checkpoint, progress, **changes)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    images = json.loads(line)["images_per_second"] * log.seconds_per_epoch
    assert images == pytest.approx(len(prepare_data(recipe, progress).split.bank))


@pytest.mark.parametrize(
    ("number", "ending"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_saves_after_the_step_and_ends(
    recipe: Recipe,
    tmp_path: Path,
    progress: Progress,
    number: signal.Signals,
    ending: type[BaseException],
) -> None:
    class Signalled(OnlineTargets):
        seen = 0

        def features(self, batch: ViewBatch) -> Features:
            self.seen += 1
            if self.seen == 2:
                os.kill(os.getpid(), number)
            return super().features(batch)

    before = signal.getsignal(number)
    made = models(recipe)
    checkpoint = Checkpoint(tmp_path, recipe, ())
    with pytest.raises(ending):
        Trainer(
            launched(recipe.train),
            made.student,
            made.objective,
            Signalled(network(made)),
            views(recipe, progress),
            recipe.train,
            checkpoint,
            progress,
        ).run()
    state = checkpoint.load()
    assert state is not None
    assert (state["course"]["epoch"], state["course"]["step"]) == (0, 2)
    assert signal.getsignal(number) is before


def test_a_checkpoint_of_another_run_is_not_continued(
    recipe: Recipe, tmp_path: Path
) -> None:
    Checkpoint(tmp_path, recipe, ("a",)).save({})
    assert Checkpoint(tmp_path, recipe, ("a",)).load() == {}
    with pytest.raises(UsageError, match=r"other images.*names of the images"):
        Checkpoint(tmp_path, recipe, ("b",)).load()


def test_a_checkpoint_without_room_is_reported_and_the_last_one_stays(
    recipe: Recipe, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, recipe, ())
    checkpoint.save({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot be written: .*Make room.*is kept"):
            checkpoint.save({"step": 2, "weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.load() == {"step": 1}


def test_changes_are_accepted_if_asked_for_and_only_those_that_fit(
    recipe: Recipe, tmp_path: Path
) -> None:
    Checkpoint(tmp_path, recipe, ("a",)).save({})

    def changed(**train: object) -> Recipe:
        document = recipe.model_dump()
        document["train"] |= train
        return Recipe.model_validate(document)

    slower = changed(learning_rate=1e-5)
    with pytest.raises(UsageError, match=r"train.learning_rate.*accept_changes=True"):
        Checkpoint(tmp_path, slower, ("a",)).load()
    assert Checkpoint(tmp_path, slower, ("a",), accept_changes=True).load() == {}
    other = changed(learning_rate=1e-5, seed=3)
    with pytest.raises(UsageError, match=r"train.seed. Remove") as caught:
        Checkpoint(tmp_path, other, ("a",), accept_changes=True).load()
    assert "accept_changes" not in str(caught.value)


def test_objectives_in_another_order_are_another_run(
    recipe: Recipe, tmp_path: Path
) -> None:
    """The optimiser identifies parameters by their position."""

    def of(*names: str, **train: object) -> Checkpoint:
        document = recipe.model_dump()
        document["objective"] = [{"name": name} for name in names]
        document["train"] |= train
        changed = Recipe.model_validate(document)
        return Checkpoint(tmp_path, changed, (), accept_changes=True)

    of("vkd", "cosine").save({})
    assert of("vkd", "cosine").load() == {}
    for train in ({}, {"learning_rate": 1e-5}):
        with pytest.raises(UsageError, match=r"the order of the objectives\. Remove"):
            of("cosine", "vkd", **train).load()
    with pytest.raises(UsageError, match=r"differs in objective\.vkd\. Remove"):
        of("cosine").load()


def test_a_run_is_not_ended_before_where_it_is(recipe: Recipe, tmp_path: Path) -> None:
    def of(epochs: int) -> Checkpoint:
        document = recipe.model_dump()
        document["train"]["epochs"] = epochs
        changed = Recipe.model_validate(document)
        return Checkpoint(tmp_path, changed, (), accept_changes=True)

    of(6).save({"course": {"epoch": 3, "step": 1}})
    of(4).require_continuable()
    with pytest.raises(UsageError, match=r"done 3 epochs and 1 steps.*after 3.*Raise"):
        of(3).require_continuable()
    of(6).save({"course": {"epoch": 3, "step": 0}})
    of(3).require_continuable()


def test_a_journal_ends_where_it_is_damaged(tmp_path: Path) -> None:
    whole = b'{"step": 0}\n{"step": 1}\n'
    for damage in (b"\0" * 20 + b"\n", b"\xff\n", b"1}\n", b'"a"\n', b"{}\n"):
        (tmp_path / "metrics.jsonl").write_bytes(whole + damage + b'{"step": 2}\n')
        Journal(tmp_path, start=5).close()
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_loss_that_is_not_finite_stops_with_a_remedy_and_keeps_the_last_checkpoint(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    checkpoint = StopsAfter(tmp_path, recipe, ())
    checkpoint.saves = 2  # the start, and the first step
    with pytest.raises(StopError):
        learn(models(recipe), recipe, checkpoint, progress, checkpoint_minutes=0)
    good = checkpoint.path.read_bytes()

    class Spoilt(OnlineTargets):
        def features(self, batch: ViewBatch) -> Features:
            features = super().features(batch)
            return Features(tokens=features.tokens * torch.nan, grid=features.grid)

    made = models(recipe)
    trainer = Trainer(
        launched(recipe.train),
        made.student,
        made.objective,
        Spoilt(network(made)),
        views(recipe, progress),
        recipe.train,
        checkpoint,
        progress,
    )
    with pytest.raises(UsageError, match=r"not finite at step 1.*Lower `learning_rate`"):
        trainer.run()
    assert checkpoint.path.read_bytes() == good


def test_a_growing_loss_is_distinguished_from_one_that_does_not_fall() -> None:
    flat = DivergenceWatch()
    for step in range(1000):
        flat.record(step, {"loss": 1 + 0.5 * (-1) ** step, "other": -3.0})
    growing = DivergenceWatch()
    with pytest.raises(UsageError, match="grew beyond 10 times"):
        for step in range(1000):
            growing.record(step, {"loss": 1.05**step})


def test_a_checkpoint_is_mentioned_where_there_is_one() -> None:
    for kept, said in (
        (True, "checkpoint is kept.*accept_changes=True"),
        (False, "run again"),
    ):
        with pytest.raises(UsageError, match=said) as caught:
            DivergenceWatch(kept=lambda kept=kept: kept).record(3, {"loss": float("nan")})
        assert ("checkpoint" in str(caught.value)) == kept


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(recipe: Recipe, tmp_path: Path) -> None:
    """In separate processes: the type checks of the tests cannot be compiled."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    document["train"] |= {"epochs": 1, "warmup_epochs": 0}
    weights, losses = [], []
    for compiled in (False, True):
        document["train"]["compile"] = compiled
        path = tmp_path / f"{compiled}.toml"
        path.write_text(tomli_w.dumps(document))
        output = tmp_path / f"{compiled}.isogon"
        arguments = ["distill", str(path), "--output", str(output)]
        subprocess.run([sys.executable, "-m", "isogon", *arguments], check=True)
        weights.append(Bundle.open(output).arrays("model.safetensors"))
        metrics = (tmp_path / f"{compiled}.isogon.work" / "metrics.jsonl").read_text()
        losses.append([json.loads(line)["loss"] for line in metrics.splitlines()])
    # AdamW's first steps amplify rounding, and statistics of activations show it most.
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    for name, value in weights[0].items():
        if "running" not in name:
            assert np.allclose(weights[1][name], value, atol=3e-2), name


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


def test_a_finished_run_leaves_its_journal_and_no_checkpoint(exported: Path) -> None:
    left = {path.name for path in work_folder(exported).iterdir()}
    assert "checkpoint.pt" not in left
    assert {"metrics.jsonl", "tensorboard"} <= left


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


@pytest.mark.parametrize(
    ("ood", "says"),
    [
        ({"name": "vim", "dim": 32}, "got dim = 32 and 32 dimensions"),
        (
            {"name": "mahalanobis", "k": 5},
            "mahalanobis detector does not use k, got k = 5",
        ),
    ],
)
def test_a_setting_that_does_not_suit_the_detector_is_refused_before_training(
    recipe: Recipe, tmp_path: Path, progress: Progress, ood: dict[str, object], says: str
) -> None:
    document = recipe.model_dump()
    document["ood"] |= ood
    with pytest.raises(UsageError, match=says):
        distill(Recipe.model_validate(document), tmp_path / "vim.isogon", progress)
    assert not (tmp_path / "vim.isogon").exists()
    assert not Checkpoint(work_folder(tmp_path / "vim.isogon"), recipe, ()).path.exists()


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
    "objective",
    [
        "isogon",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "cospress",
                "vkd+cosine",
                "coss",
                "rkd",
                "proteus",
                "kd+nd",
                "queue",
            )
        ),
    ],
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
        "objective": [{"name": name} for name in objective.split("+")],
    }
    document["data"] = document["data"] | {"size": 64}
    document["train"] = document["train"] | {"epochs": 1, "warmup_epochs": 0}
    bundle = distill(Recipe.model_validate(document), tmp_path / "vit.isogon", progress)
    assert not bundle.manifest.student.embedding_layer
    assert bundle.manifest.width == 64


@pytest.mark.slow
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
    from distill.images.loading import plain_crops

    preprocessing = Bundle.open(exported).manifest.preprocessing
    folder = ImageFolder.list(digits)
    (batch,) = plain_crops(folder, np.arange(3), preprocessing)
    for number in range(3):
        assert np.array_equal(batch[number], preprocessing.pixels(folder.image(number)))
