"""LightlyTrain as an outside program: its environment, its student, and a race with it.

LightlyTrain is under the AGPL, so nothing of ours imports it: `peers/lightly_train_run.py`
runs in its own environment, made here by pip, and both sides exchange files. Its teacher
is ours, by the documented wrapper for custom models (`distillation v3`).

In the race both have the same images, networks, batches and steps. Each length is a whole
run, because the learning rate's schedule depends on it. Seconds include all that a user
waits for: here the closed-form start, the teacher's features and the steps; there set-up
and the steps; imports on neither side.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock
from trials import STUDENT, TEACHER, Ground, Outcome, Row, Trial, run_all

from distill import Recipe
from distill.weights import pretrained
from isogon.networks import preprocessing_of

RELEASE = "0.18.0"
_SCRIPT = Path(__file__).resolve().parent / "peers" / "lightly_train_run.py"
CLAIM = 0.5  # of LightlyTrain's time to the same overlap
OURS, PEER = "Isogon", "LightlyTrain"


def environment_of(runs: Path) -> Path:
    """Return the Python of the environment with LightlyTrain, made if missing."""
    folder = runs / f"lightly-train-{RELEASE}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            ours = [
                f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "timm")
            ]
            command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
            command += [f"lightly-train=={RELEASE}", *ours]
            subprocess.run(command, check=True)
            (folder / "ready").touch()
    return folder / "bin" / "python"


def taught_by_lightly_train(
    trial: Trial, ground: Ground, recipe: Recipe, work: Path
) -> tuple[Path, dict[str, object]]:
    """Return the weights of a student trained by LightlyTrain, and the cost of training.

    The images, the batch, the steps and the seed are the recipe's; the learning rate is
    the trial's, or LightlyTrain's default.
    """
    python = environment_of(ground.runs)
    work.mkdir(parents=True)
    files = ground.set_of(trial.place).files(trial.phase)
    batch = recipe.train.batch_size
    steps_per_epoch = max(1, len(files) // batch)
    steps = recipe.train.length(steps_per_epoch)
    networks = {}
    for role, (name, checkpoint) in (("teacher", TEACHER), ("student", STUDENT)):
        model = pretrained(name, checkpoint, size=(224, 224)).model
        torch.save(model.state_dict(), work / f"{role}-weights.pt")
        networks[role] = {"name": name, "weights": str(work / f"{role}-weights.pt")}
    pixels = preprocessing_of(STUDENT[0], trial.size, 1.0)
    task = {
        "out": str(work),
        "images": files,
        **networks,
        "teacher_size": ground.teacher_size,
        "student_size": trial.size,
        "mean": pixels.mean,
        "std": pixels.std,
        "batch": batch,
        "steps": steps,
        "epochs": -(-steps // steps_per_epoch),
        "learning_rate": trial.train.get("learning_rate"),
        "workers": ground.workers,
        "seed": trial.seed,
    }
    (work / "task.json").write_text(json.dumps(task))
    done = subprocess.run(
        [python, _SCRIPT, work / "task.json"], cwd=work, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"LightlyTrain failed:\n{done.stderr[-3000:]}")
    found = json.loads((work / "figures.json").read_text())
    names = ("seconds", "seconds_per_step", "steps", "peak_mib")
    return work / "student.pt", {name: found[name] for name in names}


def race(
    place: str, lengths: Sequence[int], rate: float | None, ground: Ground
) -> dict[str, list[Outcome]]:
    """Run the missing trials, one after the other, and return all outcomes."""
    wanted = race_trials(place, lengths, rate)
    run_all((one for each in wanted.values() for one in each), ground, jobs=1)
    return {name: list(Row.of(each, ground).outcomes) for name, each in wanted.items()}


def race_trials(
    place: str, lengths: Sequence[int], rate: float | None
) -> dict[str, list[Trial]]:
    """Return the runs of both, the shortest first; ours begin with zero epochs."""
    started = Trial(row=OURS, place=place, train={"epochs": 0})
    asked = {} if rate is None else {"learning_rate": rate}
    return {
        OURS: [
            started,
            *(Trial(row=OURS, place=place, train={"steps": steps}) for steps in lengths),
        ],
        PEER: [
            Trial(
                row=PEER, place=place, kind="lightly-train", train={"steps": steps} | asked
            )
            for steps in lengths
        ],
    }


def section(place: str, found: dict[str, list[Outcome]], batch: int) -> str:
    """Return the table of both, and the ratio of their times to the same overlap."""
    lines = [
        f"\n## Beside LightlyTrain, on {place}\n",
        "| | steps | seconds in all | images/s | peak MiB | overlap@10 | kNN |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, outcomes in found.items():
        for one in outcomes:
            per_second = "" if not one.seconds_per_step else batch / one.seconds_per_step
            rate = f"{per_second:.1f}" if per_second else ""
            lines.append(
                f"| {name} | {one.steps} | {one.seconds or 0:.0f} | {rate} | "
                f"{one.peak_mib or 0:.0f} | {one.student.overlap:.3f} | "
                f"{one.student.knn:.3f} |"
            )
    return "\n".join([*lines, f"\n{verdict(found)}"])


def verdict(found: dict[str, list[Outcome]]) -> str:
    """Return how long both took to reach LightlyTrain's best overlap."""
    if not found[PEER]:
        return f"{PEER} did not run."
    best = max(found[PEER], key=lambda one: one.student.overlap)
    aim = best.student.overlap
    ours = [
        one.seconds
        for one in found[OURS]
        if one.seconds is not None and one.student.overlap >= aim
    ]
    theirs = best.seconds
    if not ours or theirs is None:
        return f"{PEER} reaches an overlap of {aim:.3f}, and {OURS} does not."
    ratio = min(ours) / theirs
    met = "" if ratio <= CLAIM else "not "
    return (
        f"{PEER} reaches an overlap of {aim:.3f} in {theirs:.0f} s, {OURS} at least "
        f"that in {min(ours):.0f} s: {ratio:.2f} of the time, which is {met}{CLAIM:g} or "
        f"less."
    )
