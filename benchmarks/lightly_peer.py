"""LightlyTrain as an outside program: its environment, and a student that it taught.

It is under the AGPL, so that nothing of ours imports it: `peers/lightly_train_run.py`
runs in an environment of its own, made here by pip, and both sides talk by files. Its
teacher is ours, by the documented wrapper for custom models (`distillation v3`).
"""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock
from trials import STUDENT, TEACHER, Ground, Trial

from distill import Recipe
from distill.weights import pretrained
from isogon.networks import preprocessing_of

RELEASE = "0.18.0"
_SCRIPT = Path(__file__).resolve().parent / "peers" / "lightly_train_run.py"


def environment_of(runs: Path) -> Path:
    """Return the Python of the environment with LightlyTrain, made unless it is there."""
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
    """Return the weights of a student that LightlyTrain taught, and what that cost.

    The images, the batch, the steps and the seed are the recipe's; the learning rate is
    that of the trial, or LightlyTrain's own where it has none.
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
