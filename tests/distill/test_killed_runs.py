"""Whole runs as processes: killed, stopped, and shared by two processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.distillation import distill, learn, work_folder
from distill.recipe import TrainSection
from distill.training.checkpoint import sole_run
from isogon.bundle import Bundle
from isogon.errors import UsageError

KILLS = int(os.environ.get("ISOGON_KILLS", "2"))  # of one process; 50 in full
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # the order of sums is that of threads


def command(folder: Path, document: dict[str, Any], name: str) -> list[str]:
    """The command line of a run towards `folder/NAME.isogon`."""
    recipe = folder / f"{name}.toml"
    recipe.write_text(tomli_w.dumps(document))
    output = folder / f"{name}.isogon"
    return [sys.executable, "-m", "isogon", "distill", str(recipe), "--output", str(output)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, check=True, capture_output=True, text=True, timeout=240, env=ENVIRONMENT
    )


def small(recipe: Recipe, **train: object) -> dict[str, Any]:
    document = recipe.model_dump(mode="json", exclude_none=True)
    document["unfamiliar"] = []
    document["train"] |= train
    return document


def steps_done(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_any_moment_ends_bit_identical(
    recipe: Recipe, tmp_path: Path
) -> None:
    epochs = 3 + KILLS // 4
    document = small(recipe, checkpoint_minutes=0, ema_decay=0.9, epochs=epochs)
    run(command(tmp_path, document, "straight"))
    arguments = command(tmp_path, document, "killed")
    work = tmp_path / "killed.isogon.work"
    moments = random.Random(0)
    reached = []
    for _ in range(KILLS):
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        start, deadline = steps_done(work), time.monotonic() + 120
        while steps_done(work) < start + 2 and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))  # in a step, or in the midst of saving
        process.kill()
        process.wait(timeout=30)
        reached.append(steps_done(work))
        assert (work / "checkpoint.pt").exists()
        assert not (tmp_path / "killed.isogon").exists()
    assert reached == sorted(reached)
    run(arguments)
    for name in ("model.safetensors", "ood/reference.safetensors"):
        straight, killed = (
            tmp_path / f"{run}.isogon" / name for run in ("straight", "killed")
        )
        assert straight.read_bytes() == killed.read_bytes(), name
    lines = (work / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(len(steps))), "steps are missing, or written twice"


@pytest.mark.slow
def test_a_terminated_run_saves_says_so_and_continues(
    recipe: Recipe, tmp_path: Path
) -> None:
    document = small(recipe, checkpoint_minutes=60, epochs=40, warmup_epochs=0)
    arguments = command(tmp_path, document, "terminated")
    work = tmp_path / "terminated.isogon.work"
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while not steps_done(work) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Run the same command again to continue" in said
    assert "Traceback" not in said
    assert (work / "checkpoint.pt").exists()


HOLD = """
import os, sys, time
from pathlib import Path
from distill.recipe import TrainSection
from distill.training.checkpoint import sole_run

with sole_run(Path(sys.argv[1]), TrainSection()):
    if os.fork():  # the parent; the child outlives it, as a loader's worker does
        print("held", flush=True)
    else:
        os.close(1)
    time.sleep(20)
"""


def test_a_run_keeps_others_out_until_it_ends_or_is_killed(
    recipe: Recipe, tmp_path: Path, progress: Progress
) -> None:
    output = tmp_path / "s.isogon"
    work = work_folder(output)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(work)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            UsageError, match=r"Another run is at work in .*s\.isogon\.work"
        ):
            distill(recipe, output, progress)
        process.kill()
    assert [path.name for path in work.iterdir()] == [".lock"]
    with sole_run(work, recipe.train):
        pass


def test_the_first_process_of_a_run_holds_its_folder_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = TrainSection(devices=2)
    with sole_run(tmp_path, section):
        with pytest.raises(UsageError, match="Another run"), sole_run(tmp_path, section):
            pass
        monkeypatch.setenv("LOCAL_RANK", "1")
        with sole_run(tmp_path, section):
            pass
        alone = TrainSection()  # whatever the variables say
        with pytest.raises(UsageError, match="Another run"), sole_run(tmp_path, alone):
            pass


@pytest.mark.slow
def test_two_processes_killed_after_a_checkpoint_end_bit_identical(
    recipe: Recipe, tmp_path: Path, two_processes: Callable[..., list[str]]
) -> None:
    document = small(recipe, checkpoint_minutes=0, devices=2, epochs=3)
    shared = recipe_from_document(document, where="tests")
    looks = 0

    def work(folder: Path) -> Callable[[int], None]:
        def run(_: int) -> None:
            quiet = Progress(disable=True)
            trained = learn(shared, folder, quiet)  # of the first process alone
            torch.save(trained.student.state_dict(), folder / "student.pt")

        return run

    def looked() -> bool:
        nonlocal looks
        looks = steps_done(tmp_path / "killed")
        return looks >= 1 and (tmp_path / "killed" / "checkpoint.pt").exists()

    assert two_processes(work(tmp_path / "straight")) == ["", ""]
    two_processes(work(tmp_path / "killed"), looked)
    assert looks and not (tmp_path / "killed" / "student.pt").exists()
    assert two_processes(work(tmp_path / "killed")) == ["", ""]
    straight, killed = (
        torch.load(tmp_path / name / "student.pt") for name in ("straight", "killed")
    )
    assert all(torch.equal(straight[name], killed[name]) for name in straight)


@pytest.mark.slow
def test_two_processes_train_the_student_of_one(recipe: Recipe, tmp_path: Path) -> None:
    """The command line is that of one process, which starts the second."""
    document = small(recipe, epochs=2, optimizer="sgd", learning_rate=0.05, clip_norm=1.0)
    # LayerNorm: no batch statistics.
    document["student"] = {"name": "test_vit", "width": 32}
    document["data"]["size"] = 64
    weights = []
    for devices in (1, 2):
        document["train"]["devices"] = devices
        run(command(tmp_path, document, f"by{devices}"))
        bundle = Bundle.open(tmp_path / f"by{devices}.isogon")
        weights.append(bundle.arrays("model.safetensors"))
    for name, value in weights[0].items():
        assert np.allclose(weights[1][name], value, atol=1e-5), name
    one, two = (
        json.loads(
            (tmp_path / f"by{devices}.isogon.work/metrics.jsonl")
            .read_text()
            .splitlines()[-1]
        )
        for devices in (1, 2)
    )
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
