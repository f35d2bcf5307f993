"""The plan of a run, before it starts: its steps, time, memory and disk space.

It is measured: a few images go through the teacher and through a few steps of the student,
and the rest is computed from that.
"""

import json
import math
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill.costs import Costs, measured_costs
from distill.images.data import UNFAMILIAR_KEPT, Data, prepare_data
from distill.images.listing import require_sources
from distill.images.loading import global_batch
from distill.preparation import RunModels, prepare_models
from distill.recipe import Recipe, recipe_from_document
from distill.recipe.defaults import MOST_EPOCHS
from distill.requirements import require_enough, require_models
from distill.start.fitting import as_teacher
from distill.targets import Uncomputed
from distill.training.checkpoint import NAME as CHECKPOINT, is_first_process
from isogon.errors import UsageError, option
from isogon.images.collection import spread
from isogon.progress import Progress, say
from isogon.runtimes.device import usable_cores
from isogon.runtimes.memory import in_bytes

PLAN = "plan.json"
_FEW = 100  # steps; the learning rate's first ones move a student away from its start
_FORWARDS = 3  # of the student in the evaluation: trained, at its start, undistilled
_STATES = 3  # weights, and the optimiser's two moments


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run will do and need."""

    steps: int
    warmup_steps: int
    batch_size: int
    images: int  # that steps learn from
    seconds: dict[str, float]  # by purpose, in the order of the run
    step_seconds: float
    memory: int  # bytes at the peak
    free_memory: int | None  # bytes that this process may use in all, if known
    on_gpu: bool
    disk: int  # bytes that will be written
    free_disk: int

    @property
    def minutes(self) -> float:
        """How long the run takes."""
        return sum(self.seconds.values()) / 60

    @property
    def sentence(self) -> str:
        """The plan in a sentence."""
        parts = ", ".join(
            f"{_duration(seconds)} {name}"
            for name, seconds in self.seconds.items()
            if seconds >= 1
        )
        work = (
            f"{self.steps:,} steps of {self.batch_size:,} images, {self.warmup_steps:,} of "
            f"them warm-up"
        )
        where = "GPU memory" if self.on_gpu else "memory"
        there = "" if self.free_memory is None else f" (of {in_bytes(self.free_memory)})"
        return (
            f"{work if self.steps else 'the closed-form start alone, no steps'}; about "
            f"{_duration(self.minutes * 60)} ({parts or 'less than a second'}); "
            f"{in_bytes(self.memory)} of {where}{there}; {in_bytes(self.disk)} of disk "
            f"({in_bytes(self.free_disk)} free)"
        )

    def as_document(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return asdict(self) | {"minutes": self.minutes}

    def train_section(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return a document's [train] with the plan's steps as its length."""
        section = {
            key: value
            for key, value in document.get("train", {}).items()
            if key not in ("epochs", "steps", "warmup_epochs")
        }
        return section | {"steps": self.steps}


def planned(
    recipe: Recipe, work: Path, progress: Progress, *, minutes: float | None = None
) -> tuple[Recipe, Data | None]:
    """Measure and print what the run needs; return the recipe with its length.

    An interrupted run keeps its length. If there are several processes, the first one
    measures. It returns the images too, so that they are not read again.

    Args:
        recipe: what will be run.
        work: the folder of the run, where the plan is kept.
        progress: shows progress, and prints the plan.
        minutes: how long the run may take, instead of the recipe's length.

    Raises:
        UsageError: there is too little memory, or time.
    """
    first = is_first_process(recipe.train)
    if minutes is not None and recipe.train.devices * recipe.train.nodes > 1:
        _require_one_launcher()
    if not first and minutes is None:
        return recipe, None
    if not first or (work / CHECKPOINT).exists():
        kept = _kept(work, minutes)
        if kept is not None:
            return recipe if minutes is None else _lengthened(recipe, kept), None
    if minutes is not None:
        # One step, so that data has what steps need, such as validation images.
        recipe = _lengthened(recipe, 1)
    data = prepare_data(recipe, progress, work)
    plan = _plan_of(recipe, data, progress, minutes)
    _say(plan, progress)
    work.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plan.as_document() | {"asked": minutes}, indent=2)
    (work / PLAN).write_text(text + "\n", encoding="utf-8")
    return recipe if minutes is None else _lengthened(recipe, plan.steps), data


def tried(recipe: Recipe, progress: Progress, *, minutes: float | None = None) -> RunPlan:
    """Return and print the plan of a run without starting it; no files are left.

    Raises:
        UsageError: see `planned`.
    """
    require_sources(recipe.model_dump())
    require_models(recipe)
    if minutes is not None:
        recipe = _lengthened(recipe, 1)
    with tempfile.TemporaryDirectory(prefix="isogon-plan-") as folder:
        data = prepare_data(recipe, progress, Path(folder))
    plan = _plan_of(recipe, data, progress, minutes)
    _say(plan, progress)
    return plan


def steps_per_epoch(recipe: Recipe, images: int) -> int:
    """Return the number of steps of a pass over `images` images."""
    return images // global_batch(images, recipe.train.batch_size, recipe.train.parts)


def _say(plan: RunPlan, progress: Progress) -> None:
    say(progress, f"Plan: {plan.sentence}.")


def _kept(work: Path, minutes: float | None) -> int | None:
    """Return the steps of an earlier plan with the same `minutes`, if there is one."""
    try:
        found = json.loads((work / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return int(found["steps"]) if found.get("asked") == minutes else None


def _require_one_launcher() -> None:
    if "RANK" in os.environ:  # of torchrun, which starts all processes at once
        raise UsageError(
            f"Expected {option('steps')} or {option('epochs')} with `torchrun`: it starts "
            f"all processes at once, before the first one has measured how many steps "
            f"{option('minutes')} are. `isogon distill … --minutes … --dry-run` prints "
            f"the number of steps."
        )


def _plan_of(
    recipe: Recipe, data: Data, progress: Progress, minutes: float | None
) -> RunPlan:
    require_enough(recipe, len(data.taught))
    # One process reads during the trial; the time of several is computed from it.
    alone = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"workers": 0})}
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.train.seed)
        models = prepare_models(alone, data, device, progress)
        work = _Work.of(alone, data, models, device)
        costs = measured_costs(recipe, data, models, device, progress)
    per_epoch = steps_per_epoch(recipe, len(data.taught))
    if minutes is None:
        steps = recipe.train.length(per_epoch)
    else:
        steps = _affordable(recipe, work, costs, minutes)
        if recipe.student.from_pretrained:
            steps, remark = _sensible(steps, per_epoch, minutes)
            if remark:
                say(progress, remark)
        recipe = _lengthened(recipe, steps)
    disk = work.size + _bundle_size(recipe, data, models)
    return RunPlan(
        steps=steps,
        warmup_steps=min(steps, recipe.train.warmup(per_epoch)),
        batch_size=recipe.train.batch_size,
        images=len(data.taught),
        seconds=_seconds(recipe, work, costs, steps),
        step_seconds=_step_seconds(recipe, costs),
        memory=costs.memory * (1 if costs.on_gpu else recipe.train.devices),
        free_memory=costs.free,
        on_gpu=costs.on_gpu,
        disk=disk,
        free_disk=shutil.disk_usage(_existing(Path(recipe.teachers[0].cache))).free,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """How many images go through each network, beside the steps."""

    teacher: int  # for stored features
    start: int  # through the student's network, for the closed-form start
    validation: int  # through the student, over the whole run
    evaluation: int  # through teacher and student
    size: int  # bytes of the stored features

    @classmethod
    def of(
        cls, recipe: Recipe, data: Data, models: RunModels, device: torch.device
    ) -> "_Work":
        """Count the images; features that are already stored are not computed again."""
        trained, closed = recipe.train.epochs > 0, recipe.student.in_closed_form
        nothing = Uncomputed(views=0, size=0)
        views = plain = ours = nothing
        if trained:
            crops = data.fitted if closed else None
            views = models.teacher.uncomputed(data.taught, device, crops=crops)
        everything = models.objective.start_on == "everything" or recipe.of_neighbours
        if closed or everything:
            asked = data.everything if everything else data.fitted
            plain = models.teacher.uncomputed(asked, device, plain=True)
        elif trained and len(data.validation):
            asked = data.fitted[data.compared]
            plain = models.teacher.uncomputed(asked, device, plain=True)
        if closed:
            network = as_teacher(models.student.backbone, recipe, data)
            ours = network.uncomputed(data.fitted, device, plain=True)
            models.student.requires_grad_(True)
        unfamiliar = sum(len(one.flaggable) for one in data.unfamiliar.values())
        compared = len(data.compared) if len(data.validation) else 0
        held_out = len(data.split.calibration) + len(data.split.test)
        return cls(
            teacher=views.views + plain.views,
            start=ours.views,
            validation=compared * recipe.train.validations if trained else 0,
            evaluation=len(data.bank) + held_out + unfamiliar,
            size=views.size + plain.size + ours.size,
        )


def _seconds(recipe: Recipe, work: _Work, costs: Costs, steps: int) -> dict[str, float]:
    workers = recipe.train.workers
    both = costs.teacher + _FORWARDS * costs.student
    return {
        "for the teacher's features": work.teacher * _pass(costs, workers, costs.teacher),
        "for the start": work.start * _pass(costs, workers, costs.student),
        "for the steps": steps * _step_seconds(recipe, costs),
        "for validation": work.validation * (costs.load + costs.student),
        "for the evaluation": work.evaluation * _pass(costs, workers, both),
    }


def _step_seconds(recipe: Recipe, costs: Costs) -> float:
    """Return the seconds of one step in each process."""
    section = recipe.train
    mine = section.batch_size / (section.devices * section.nodes)
    per_image = _pass(costs, section.workers, costs.step / mine)
    return mine * per_image


def _pass(costs: Costs, workers: int, network: float) -> float:
    """Return the seconds for reading an image and computing a network on it.

    Readers run in parallel to the network. On a CPU they use its cores.
    """
    if not workers:
        return costs.load + network
    cores = usable_cores()
    beside = network if costs.on_gpu else network + costs.load / cores
    return max(costs.load / min(workers, cores), beside)


def _affordable(recipe: Recipe, work: _Work, costs: Costs, minutes: float) -> int:
    """Return the number of steps that fit into the minutes, after all other work.

    Raises:
        UsageError: not even one.
    """
    other = _seconds(recipe, work, costs, 0)
    left = minutes * 60 - sum(other.values())
    step = _step_seconds(recipe, costs)
    if left < step:
        parts = ", ".join(
            f"{_duration(seconds)} {name}"
            for name, seconds in other.items()
            if seconds >= 1
        )
        enough = math.ceil((sum(other.values()) + 100 * step) / 60)
        raise UsageError(
            f"{option('minutes', minutes)} are too few for a step: a step takes "
            f"{_duration(step)}, other work {parts or 'some seconds'}. Nothing has been "
            f"started. Allow {option('minutes', enough)} for a hundred steps, or a smaller "
            f"{option('size')} than {recipe.data.size}, since the time falls with its "
            f"square, or {option('epochs', 0)} for the closed-form student alone."
        )
    return int(left / step)


def _sensible(steps: int, per_epoch: int, minutes: float) -> tuple[int, str]:
    """Return how many of the steps a pretrained student takes, and what to say of it."""
    most = MOST_EPOCHS * per_epoch
    if steps > most:
        return most, (
            f"The run ends before {minutes:g} minutes are over, after {MOST_EPOCHS} passes "
            f"over the images: few images are overfitted after this. {option('epochs')} "
            f"asks for more."
        )
    if steps < _FEW:
        return steps, (
            f"{steps:,} steps are few: they rarely improve on the closed-form start, "
            f"which {option('epochs', 0)} gives alone. The better of both is kept. More "
            f"{option('minutes')}, or a smaller {option('size')}, allow for more steps."
        )
    return steps, ""


def _lengthened(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with a length in steps."""
    document = recipe.model_dump()
    section = document["train"]
    section.pop("epochs")  # else fewer epochs would end the run earlier
    section |= {"steps": steps, "warmup_epochs": None}
    return recipe_from_document(document, where=option("minutes"))


def _bundle_size(recipe: Recipe, data: Data, models: RunModels) -> int:
    """Return the bytes of the bundle and of the checkpoints."""
    weights = sum(4 * one.numel() for one in models.student.parameters())
    heads = sum(4 * one.numel() for one in models.objective.parameters())
    copies = _STATES + (recipe.train.ema_decay is not None)
    # A new checkpoint is complete before the old one is removed.
    checkpoints = 2 * copies * (weights + heads)
    unfamiliar = 2 * UNFAMILIAR_KEPT if data.unfamiliar else 0
    pictures = len(data.split.calibration) + unfamiliar + len(spread(len(data.bank)))
    pixels = pictures * recipe.data.size**2 * 3
    references = len(data.bank) * models.student.width * 4
    return checkpoints + weights + pixels + references


def _existing(folder: Path) -> Path:
    """Return the folder, or the first above it that exists."""
    found = folder.absolute()
    while not found.exists():
        found = found.parent
    return found


def _duration(seconds: float) -> str:
    """Return a duration in a readable unit."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
