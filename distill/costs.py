"""What a run costs on this machine, measured on a few of its images."""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from distill.images.data import Data
from distill.images.loading import TrainingViews, ViewBatch
from distill.images.views import Views
from distill.preparation import RunModels
from distill.recipe import Recipe
from distill.training.optimisation import channels_last, freeze_statistics, optimizer_for
from isogon.errors import UsageError, option
from isogon.networks import Features
from isogon.progress import Progress
from isogon.runtimes.memory import (
    available_memory,
    forget_peak,
    in_bytes,
    peak_memory,
    private_memory,
    resident_memory,
)

_TEACHERS_BATCH = 64  # images, when features are computed once
_PATIENCE = 8.0  # seconds; a longer step is measured on a part of its batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Seconds and bytes, measured."""

    load: float  # seconds to read an image and vary it, in one process
    teacher: float  # seconds of the teacher per image
    student: float  # seconds of the student per image, without training
    step: float  # seconds of an optimiser step in one process, without reading
    memory: int  # bytes at the peak, of all processes
    free: int | None  # bytes that the run may use; None if unknown
    on_gpu: bool


def measured_costs(
    recipe: Recipe,
    data: Data,
    models: RunModels,
    device: torch.device,
    progress: Progress,
    *,
    room: int | None = None,
) -> Costs:
    """Measure the teacher, and a step of the student, on a few images of the run.

    This trains the models a little: make new ones for the run itself.

    Args:
        recipe: what will be run.
        data: its images.
        models: its models, made with `workers = 0`.
        device: where they compute.
        progress: shows progress.
        room: bytes that the run may use in addition; None for the available memory.

    Raises:
        UsageError: there is too little memory.
    """
    trial = _Trial(recipe, data, models, device, room)
    task = progress.add_task("Trying the run", total=4 if recipe.train.epochs else 3)
    batch, load = trial.loaded()
    progress.update(task, advance=1)
    features, teacher = trial.taught(load)
    progress.update(task, advance=1)
    student = trial.embedded(batch)
    progress.update(task, advance=1)
    step = trial.stepped(batch, features, teacher) if recipe.train.epochs else 0.0
    progress.remove_task(task)
    return Costs(
        load=load,
        teacher=teacher,
        student=student,
        step=step,
        memory=trial.memory,
        free=trial.free,
        on_gpu=device.type == "cuda",
    )


class _Trial:
    """One short run, with the peak memory of all of its parts."""

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        models: RunModels,
        device: torch.device,
        room: int | None,
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._models = models
        self._device = device
        self._part = recipe.train.batch_size // recipe.train.parts
        self._part = max(2, min(self._part, len(data.taught) // recipe.train.parts))
        self._images = np.resize(data.taught, min(self._part, 32))
        self._on_gpu = device.type == "cuda"
        room = self._available() if room is None else room
        self.memory = self._held()
        self.free = None if room is None else self.memory + room

    def loaded(self) -> tuple[ViewBatch, float]:
        """Return a small batch of views, and the seconds per view."""
        recipe, indices = self._recipe, self._images
        views = TrainingViews(
            Views(self._data.imitated, recipe.data, recipe.train.seed),
            lambda epoch: [indices],
            labels=self._models.labels,
            workers=0,
        )
        began = time.perf_counter()
        ((batch,),) = views.epoch(0)
        return batch, (time.perf_counter() - began) / len(indices)

    def taught(self, load: float) -> tuple[Features, float]:
        """Return the teacher's features of a few images, and the seconds per image."""
        teacher, count = self._models.teacher, 64 if self._device.type == "cuda" else 16
        indices = np.resize(self._images, count)
        for _ in teacher.sample(indices[:2], self._device):  # the first run is slower
            pass
        with self._peak(_TEACHERS_BATCH / count):
            began = self._now()
            batches = list(teacher.sample(indices, self._device))
            seconds = (self._now() - began) / count
        if self._refused(self.memory):
            raise UsageError(
                f"The teacher needs {in_bytes(self.memory)} of memory for "
                f"{_TEACHERS_BATCH} images, but there are {in_bytes(self.free or 0)}. "
                f"Nothing has been started. Take a smaller teacher, or a smaller `size` in "
                f"[teacher] ({option('teacher_size')})."
            )
        tokens = torch.cat([one.tokens for one in batches])
        network = seconds if teacher.embed is None else max(seconds - load, seconds / 10)
        return Features(tokens=tokens, grid=batches[0].grid), network

    def embedded(self, batch: ViewBatch) -> float:
        """Return the seconds per image in which the student embeds."""
        student = self._models.student.to(self._device).eval()
        pixels = _repeated(batch.pixels, 16).to(self._device)
        with torch.no_grad(), self._peak(_TEACHERS_BATCH / len(pixels)):
            student.embed(pixels[:2])
            began = self._now()
            student.embed(pixels)
            return (self._now() - began) / len(pixels)

    def stepped(self, batch: ViewBatch, features: Features, teacher: float) -> float:
        """Return the seconds of an optimiser step; smaller steps first show that it fits.

        Raises:
            UsageError: it does not fit into memory.
        """
        micro_batches = self._recipe.train.accumulate
        online = 0.0
        if any(
            one.path is None and one.features == "online" for one in self._recipe.teachers
        ):
            online = teacher * self._part * micro_batches
        step = self._step(batch, features)
        readers = self._of_readers()
        with self._refusing():
            self._tried(step, 2)  # creates the optimiser's state, whose size is fixed
            seconds, images = 0.0, 0
            for images in dict.fromkeys((2, max(2, self._part // 4), self._part)):
                before = self._held()
                seconds, peak = self._tried(step, images)
                slope = (peak - before) / images
                whole = before + int(slope * self._part) + readers
                # Two images overestimate it: memory that every step needs counts twice.
                if self._refused(whole // 2 if images == 2 < self._part else whole):
                    raise self._too_large(whole, before + readers)
                if seconds * self._part / images > _PATIENCE:
                    break
        self.memory = max(self.memory + readers, whole)
        return seconds * self._part / images * micro_batches + online

    def _step(self, batch: ViewBatch, features: Features) -> Callable[[int], None]:
        """Return a function that runs a step on a number of images, as the trainer does."""
        section, device = self._recipe.train, self._device
        student = self._models.student.to(device).train()
        freeze_statistics(student, section.batch_statistics)
        channels_last(student)
        objective = self._models.objective.to(device).train()
        pair = torch.nn.ModuleDict({"student": student, "objective": objective})
        optimizer = optimizer_for(pair, section, undecayed=())
        dtype = torch.float16 if section.precision == "16-mixed" else torch.bfloat16
        mixed = section.precision != "32-true"

        def step(images: int) -> None:
            pixels = _repeated(batch.pixels, images).to(device)
            target = Features(
                tokens=_repeated(features.tokens, images).to(device), grid=features.grid
            )
            labels = batch.labels
            if labels is not None:
                labels = _repeated(labels, images).to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=dtype, enabled=mixed):
                terms = objective(student(pixels), target, labels)
                loss = torch.stack(list(terms.values())).sum()
            torch.autograd.backward(loss)
            optimizer.step()

        return step

    def _tried(self, step: Callable[[int], None], images: int) -> tuple[float, int]:
        """Return the seconds of the second of two steps, and the peak of memory."""
        with self._peak(1.0) as peak:
            step(images)
            began = self._now()
            step(images)
            seconds = self._now() - began
        return seconds, peak[0]

    def _of_readers(self) -> int:
        """Return the private memory of the processes that read images."""
        workers = self._recipe.train.workers
        if not workers or self._on_gpu:
            return 0
        others = set(multiprocessing.active_children())
        indices = self._images
        views = TrainingViews(
            Views(self._data.imitated, self._recipe.data, self._recipe.train.seed),
            lambda epoch: [indices] * (2 * workers),
            labels=self._models.labels,
            workers=workers,
        )
        for _ in views.epoch(0):
            pass
        readers = set(multiprocessing.active_children()) - others
        return sum(private_memory(one.pid) for one in readers if one.pid is not None)

    @contextmanager
    def _peak(self, factor: float) -> Iterator[list[int]]:
        """Record the peak of memory in this block; its increase is scaled by `factor`."""
        found: list[int] = []
        if self._on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            forget_peak()
        before = self._held()
        yield found
        if self._on_gpu:
            peak = torch.cuda.max_memory_reserved(self._device)
        else:
            peak = peak_memory()
        found.append(before + int((peak - before) * factor))
        self.memory = max(self.memory, found[0])

    def _held(self) -> int:
        if self._on_gpu:
            return torch.cuda.memory_reserved(self._device)
        return resident_memory()

    def _available(self) -> int | None:
        if self._on_gpu:
            return torch.cuda.mem_get_info(self._device)[0]
        return available_memory()

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _refused(self, needed: int) -> bool:
        return self.free is not None and needed > self.free

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn an out-of-memory error of the device into one that says what to do."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large() from error

    def _too_large(self, needed: int | None = None, fixed: int = 0) -> UsageError:
        """Return the error for a step that does not fit into memory.

        Args:
            needed: bytes at its peak, if known.
            fixed: bytes that do not depend on the batch.
        """
        share = 0.5
        if needed is not None and self.free is not None:
            share = (self.free - fixed) / max(needed - fixed, 1)
        much = "more" if needed is None else in_bytes(needed)
        section, size = self._recipe.train, self._recipe.data.size
        where = "GPU memory" if self._on_gpu else "memory"
        there = "" if self.free is None else f", but there are {in_bytes(self.free)}"
        remedies = []
        fitting = [
            parts
            for parts in range(2, self._part // 2 + 1)
            if self._part % parts == 0 and 1 / parts < share
        ]
        if fitting:
            smaller = section.batch_size // fitting[0]
            cut = section.accumulate * fitting[0]
            remedies += [option("batch_size", smaller), option("accumulate", cut)]
        smallest = int(size * math.sqrt(max(share, 0.0)) * 0.95) // 32 * 32
        if 32 <= smallest < size:
            remedies.append(option("size", smallest))
        advice = " or ".join(remedies) or "a smaller student or teacher"
        return UsageError(
            f"A step of {section.batch_size} images of {size} pixels needs {much} of "
            f"{where}{there}. Nothing has been started. Take {advice}: keys `batch_size` "
            f"and `accumulate` of [train], `size` of [data]."
        )


def _repeated(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` rows: the given ones, repeated."""
    return values[torch.arange(count) % len(values)]
