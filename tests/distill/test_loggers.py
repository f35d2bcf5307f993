"""W&B and MLflow get the figures of a run, on this machine only."""

import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from distill import Recipe
from distill.distillation import distill, work_folder
from distill.training import loggers as tested
from distill.training.loggers import RunLoggers, require_loggers, run_loggers
from isogon.bundle import Bundle
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.errors import UsageError


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the loggers' variables from the environment."""
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def with_loggers(recipe: Recipe, *names: str) -> Recipe:
    document = recipe.model_dump(mode="json", exclude_none=True)
    document["train"]["loggers"] = list(names)
    return Recipe.model_validate(document)


def needing(name: str) -> None:
    try:
        require_loggers([name])
    except UsageError as error:
        pytest.skip(str(error))


def offline_records(file: Path) -> Iterator[Any]:
    """Yield the records of W&B's file: LevelDB's log format behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(parts)
            parts = b""


def history_of(file: Path) -> list[dict[str, Any]]:
    return [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in offline_records(file)
        if record.WhichOneof("record_type") == "history"
    ]


def test_a_logger_that_is_not_installed_is_refused_before_any_work(
    recipe: Recipe, tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tested.PACKAGES, "wandb", ("no_such_package",))
    with pytest.raises(UsageError, match=r"needs the package 'no_such_package'.*\[wandb\]"):
        distill(with_loggers(recipe, "wandb"), tmp_path / "s.isogon", progress)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wandb_has_the_steps_the_recipe_and_the_end_offline(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    needing("wandb")
    output = tmp_path / "s.isogon"
    bundle = distill(with_loggers(recipe, "wandb"), output, progress)
    assert not [one for one in threading.enumerate() if "Otel" in one.name]
    work = work_folder(output)
    (folder,) = (work / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    history = history_of(file)
    journal = (work / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in journal.splitlines()]
    logged = [one for one in history if "student/overlap at 10" not in one]
    assert [one["trainer/global_step"] for one in logged] == [one["step"] for one in lines]
    for one, line in zip(logged, lines, strict=True):
        assert {key: one[key] for key in line if key != "step"} == {
            key: value for key, value in line.items() if key != "step"
        }
    fidelity = bundle.record(EVALUATION, Evaluation).fidelity
    assert fidelity is not None
    assert history[-1]["student/angle distortion"] == fidelity.angle_distortion
    assert "undistilled/angle distortion" in history[-1]
    configured = {
        item.key: json.loads(item.value_json)
        for record in offline_records(file)
        if record.WhichOneof("record_type") == "config"
        for item in record.config.update
    }
    assert configured["train"]["learning_rate"] == recipe.train.learning_rate


@pytest.mark.slow
def test_mlflow_goes_on_with_the_same_run(
    recipe: Recipe, exported: Path, tmp_path: Path, progress: Progress
) -> None:
    needing("mlflow")
    logged = with_loggers(recipe, "mlflow")
    with pytest.raises(KeyboardInterrupt), run_loggers(logged, tmp_path, progress) as one:
        one.open(start=0)
        one.write(0, {"loss": 2.0})
        raise KeyboardInterrupt
    identifier = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_run(identifier).info.status == "KILLED"
    with run_loggers(logged, tmp_path, progress) as other:
        other.open(start=1)
        assert client.get_run(identifier).info.status == "RUNNING"
        other.write(1, {"loss": 1.0})
        bundle = Bundle.open(exported)
        other.conclude(bundle, bundle.record(EVALUATION, Evaluation))
    run = client.get_run(identifier)
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(identifier, "loss")
    assert [(one.step, one.value) for one in losses] == [(0, 2.0), (1, 1.0)]
    assert run.data.metrics["student/parameters"] == bundle.manifest.student.parameters
    assert run.data.params["train/learning_rate"] == str(recipe.train.learning_rate)
    # A run from the first step on is another one.
    with run_loggers(logged, tmp_path, progress) as anew:
        anew.open(start=0)
    assert json.loads((tmp_path / "loggers.json").read_text())["mlflow"] != identifier


@pytest.mark.slow
def test_a_logger_that_fails_later_does_not_end_the_run(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needing("mlflow")
    loggers = RunLoggers(with_loggers(recipe, "mlflow"), tmp_path, Progress())
    loggers.open(start=0)
    (tmp_path / "mlflow.db").write_bytes(b"not a database")
    loggers.write(3, {"loss": 1.0})
    loggers.write(4, {"loss": 1.0})
    loggers.close("FINISHED")
    assert capsys.readouterr().out.count("fails and is left out from step 3") == 1


@pytest.mark.slow
def test_a_logger_that_cannot_be_opened_is_an_error(
    recipe: Recipe, tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://here")
    loggers = RunLoggers(with_loggers(recipe, "mlflow"), tmp_path, progress)
    with pytest.raises(UsageError, match=r"'mlflow' cannot be opened.*leave 'mlflow' out"):
        loggers.open(start=0)
