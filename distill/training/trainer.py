"""The training loop: a student learns an objective from the teacher's features."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from distill.images.loading import TrainingViews, ViewBatch
from distill.objectives import Objective
from distill.objectives.objective import Terms
from distill.recipe import TrainSection
from distill.targets import Targets
from distill.training.agreement import require_agreement
from distill.training.checkpoint import Checkpoint, generator_state, restore_generators
from distill.training.divergence_watch import DivergenceWatch, Values, require_finite
from distill.training.interruption import interruption
from distill.training.journal import Journal
from distill.training.loggers import RunLoggers
from distill.training.optimisation import (
    channels_last,
    freeze_statistics,
    optimizer_for,
    schedule_for,
)
from distill.training.processes import (
    any_of_all,
    in_common,
    mean_of_all,
    require_sound,
    rows_of_all,
)
from distill.training.validation import Validation
from isogon.networks import Features, Student
from isogon.progress import Progress

# The mean of each loss term over an epoch.
EpochMeans = dict[str, float]
_LOOK = 10  # steps between readings of the loss, for which the host waits for the device


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingLog:
    """The log of a finished run."""

    epochs: tuple[EpochMeans, ...] = ()
    seconds_per_epoch: float | None = None
    steps: int = 0
    kept_step: int = 0  # the step after which the student has its weights
    validated: tuple[tuple[int, float, float], ...] = ()  # step, overlap, distortion


class Trainer:
    """One run of a recipe's `[train]`, continued from its checkpoint if there is one.

    On CPU the weights are bit for bit the same, however often a run is killed and
    continued: views and their order are functions of seed and epoch, and the checkpoint
    holds everything else (weights, heads, optimiser, average, gradient scaler,
    generators, position).
    """

    def __init__(
        self,
        fabric: Fabric,
        student: Student,
        objective: Objective,
        targets: Targets,
        views: TrainingViews,
        section: TrainSection,
        checkpoint: Checkpoint,
        progress: Progress,
        *,
        validation: Validation | None = None,
        loggers: RunLoggers | None = None,
    ) -> None:
        """Set up the run, and restore its checkpoint if there is one.

        Args:
            fabric: the run's processes.
            student: the student at its start.
            objective: the loss, after `start`.
            targets: the teacher's features of the views.
            views: the batches of views.
            section: the recipe's [train].
            checkpoint: of the run.
            progress: shows the step.
            validation: chooses the best weights; None keeps the last.
            loggers: get the figures of the steps, besides the journal.
        """
        self._fabric = fabric
        self._pair = _Pair(student, objective)
        self._targets = targets
        self._views = views
        self._section = section
        self._checkpoint = checkpoint
        self._progress = progress
        undecayed = {f"objective.{name}" for name in objective.undecayed()}
        optimizer = optimizer_for(self._pair, section, undecayed=undecayed)
        self._total = section.length(len(views))
        self._schedule = schedule_for(optimizer, section, len(views))
        self._validation = validation
        self._loggers = loggers
        self._every = max(1, self._total // section.validations)
        # The best weights so far, with step and score.
        self._best: dict[str, Any] | None = None
        self._ema = None
        if section.ema_decay is not None:
            self._ema = ModelEmaV3(self._pair, section.ema_decay, use_warmup=True)
        if section.compile:
            student.compile()  # it chooses memory layouts itself
        else:
            channels_last(student)
        self._model, self._optimizer = fabric.setup(self._pair, optimizer)
        if self._ema is not None:
            self._ema.to(fabric.device)
        targets.place(fabric.device)
        torch.manual_seed(section.seed + fabric.global_rank)  # of dropout
        self._watch = DivergenceWatch(kept=checkpoint.path.exists)
        self._course = _Course()
        self._unseen: list[Terms] = []  # terms of the last steps, still on the device
        self._restore()
        lengths = {"steps": self._total, "steps done, by the checkpoint": self._done}
        require_agreement(fabric, {}, lengths)

    def run(self) -> TrainingLog:
        """Train the student in place, to the end of the recipe.

        After a signal to stop it finishes its step, saves and ends.

        Raises:
            UsageError: the loss diverged, or the teacher's features are not finite; the
                last good checkpoint is kept.
        """
        course = self._course
        task = self._progress.add_task(
            "Distilling", total=self._total, completed=self._done
        )
        saved = seen = time.monotonic()
        with self._journal() as journal, interruption() as asked:
            if not self._done and self._best is None:
                self._validate(journal)
                self._save()  # so that there is a checkpoint from the first step on
            for last in self._steps():
                minutes = (time.monotonic() - saved) / 60
                due = minutes >= self._section.checkpoint_minutes
                stop, save = self._agreed(bool(asked), due or bool(asked), last)
                if last or save or self._done % _LOOK == 0:
                    looked = time.monotonic()
                    figures = self._look(looked - seen)
                    seen = looked
                    if journal is not None:
                        journal.write(self._done - 1, course.epoch, figures)
                    self._progress.update(
                        task, completed=self._done, description=_shown(figures)
                    )
                if self._done == self._total or self._done % self._every == 0:
                    self._validate(journal)
                if last:
                    self._close_epoch()
                if save:
                    self._save()
                    saved = time.monotonic()
                # An error here would end the first process before it saves.
                if stop and not self._fabric.is_global_zero:
                    raise SystemExit(0)
                if stop:
                    asked.end()
            self._save()
        if self._best is not None:
            self._pair.load_state_dict(self._best["pair"])
        elif self._ema is not None:
            self._pair.load_state_dict(self._ema.module.state_dict())
        self._pair.eval()
        return TrainingLog(
            epochs=tuple(course.epochs),
            seconds_per_epoch=course.seconds * len(self._views) / self._total,
            steps=self._total,
            kept_step=self._total if self._best is None else self._best["step"],
            validated=tuple(course.validated),
        )

    def _steps(self) -> Iterator[bool]:
        """Run step after step; yield after each whether it is the last of its epoch.

        The last epoch may end early, with the run.
        """
        course = self._course
        while self._done < self._total:
            self._pair.objective.at_epoch(float(course.epoch))
            self._model.train()
            freeze_statistics(self._pair.student, self._section.batch_statistics)
            for micro_batches in self._views.epoch(course.epoch, course.step):
                self._step(micro_batches)
                course.step += 1
                yield course.step == len(self._views) or self._done == self._total
                if self._done == self._total:
                    break

    def _validate(self, journal: Journal | None) -> None:
        """Evaluate the validation images; keep the weights if they are the best so far."""
        if self._validation is None or not self._fabric.is_global_zero:
            return
        pair = self._pair if self._ema is None else self._ema.module
        found = self._validation.measured(pair.student, self._done)
        self._course.validated.append((found.step, found.overlap, found.distortion))
        if journal is not None:
            figures = {
                "validation_overlap": found.overlap,
                "validation_distortion": found.distortion,
            }
            journal.write(self._done, self._course.epoch, figures)
        best = self._best
        if best is None or found.score > best["score"]:
            weights = {name: value.clone() for name, value in pair.state_dict().items()}
            self._best = {"step": found.step, "score": found.score, "pair": weights}

    def _journal(self) -> AbstractContextManager[Journal | None]:
        if not self._fabric.is_global_zero:
            return nullcontext()
        folder = self._checkpoint.path.parent
        return closing(Journal(folder, start=self._done, loggers=self._loggers))

    @property
    def _done(self) -> int:
        """The number of finished steps of the run."""
        return self._course.epoch * len(self._views) + self._course.step

    def _step(self, micro_batches: tuple[ViewBatch, ...]) -> None:
        self._schedule.step_update(self._done)
        self._optimizer.zero_grad()
        sums: Terms = {}
        for number, batch in enumerate(micro_batches, start=1):
            more = number < len(micro_batches)
            with self._fabric.no_backward_sync(self._model, enabled=more):
                terms = self._terms(batch.to(self._fabric.device))
                loss = torch.stack(list(terms.values())).sum()
                self._fabric.backward(loss / len(micro_batches))
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(micro_batches)
        if self._section.clip_norm is not None:
            self._fabric.clip_gradients(
                self._model,
                self._optimizer,
                max_norm=self._section.clip_norm,
                error_if_nonfinite=False,
            )
        self._optimizer.step()
        if self._ema is not None:
            self._ema.update(self._pair, step=self._done)
        self._unseen.append(sums)

    def _terms(self, batch: ViewBatch) -> Terms:
        with torch.no_grad(), self._fabric.autocast():
            target = self._targets.features(batch)
        terms: Terms = self._model(batch.pixels, target.tokens, target.grid, batch.labels)
        return terms

    def _agreed(self, stop: bool, save: bool, last: bool) -> tuple[bool, ...]:
        """Return whether to stop and to save, for all processes: any may ask for it.

        Processes agree only at steps at which the loss is read.
        """
        if self._fabric.world_size == 1:
            return stop, save
        if not last and self._done % _LOOK:
            return False, False
        return any_of_all(self._fabric, stop, save)

    def _look(self, seconds: float) -> Values:
        """Read the terms of the last steps, check them, and return their means."""
        with in_common(self._fabric):
            require_sound(self._fabric, self._targets)
        names = list(self._unseen[0])
        stacked = torch.stack(
            [torch.stack([terms[name].float() for name in names]) for terms in self._unseen]
        )
        rows = mean_of_all(self._fabric, stacked).cpu().tolist()
        self._unseen.clear()
        first = self._done - len(rows)
        for step, row in enumerate(rows, start=first):
            terms = dict(zip(names, row, strict=True))
            with in_common(self._fabric):
                self._watch.record(step, terms)
            for name, value in terms.items():
                self._course.sums[name] = self._course.sums.get(name, 0.0) + value
        self._course.seconds += seconds
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        images = len(rows) * self._views.batch_size
        return {
            "loss": sum(means),
            **dict(zip(names, means, strict=True)),
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "images_per_second": images / max(seconds, 1e-9),
        }

    def _close_epoch(self) -> None:
        course = self._course
        steps = course.step  # fewer than an epoch has if the run ends within it
        course.epochs.append({name: value / steps for name, value in course.sums.items()})
        course.sums = {}
        if steps == len(self._views):
            course.epoch, course.step = course.epoch + 1, 0

    def _save(self) -> None:
        with in_common(self._fabric):
            require_finite(self._pair, self._done, kept=self._checkpoint.path.exists())
        generators = rows_of_all(self._fabric, generator_state(self._fabric.device))
        if not self._fabric.is_global_zero:
            return
        self._checkpoint.save(
            {
                "pair": self._pair.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "ema": None if self._ema is None else self._ema.module.state_dict(),
                "precision": self._fabric.strategy.precision.state_dict(),
                "generators": generators.cpu(),
                "watch": self._watch.state(),
                "best": self._best,
                "done": self._done,
                "course": {name: getattr(self._course, name) for name in _Course.__slots__},
            }
        )

    def _restore(self) -> None:
        """Restore the state of an interrupted run, if there is one."""
        state: dict[str, Any] | None = self._checkpoint.load()
        if state is None:
            return
        self._pair.load_state_dict(state["pair"])
        decays = [group["weight_decay"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self._optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # the recipe may have changed it
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        if state["precision"]:  # the gradient scaler of 16-mixed
            self._fabric.strategy.precision.load_state_dict(state["precision"])
        restore_generators(state["generators"][self._fabric.global_rank])
        self._watch.restore(state["watch"])
        self._best = state["best"]
        self._course = _Course(**state["course"])


@dataclass(kw_only=True, slots=True)
class _Course:
    """The position of a run, and its log so far."""

    epoch: int = 0
    step: int = 0  # within the epoch
    seconds: float = 0.0
    sums: Values = field(default_factory=dict)  # of the terms in this epoch
    epochs: list[EpochMeans] = field(default_factory=list)
    validated: list[tuple[int, float, float]] = field(default_factory=list)


class _Pair(nn.Module):
    """Student and objective as one module: one forward, one set of parameters."""

    def __init__(self, student: Student, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective

    def forward(
        self,
        pixels: UInt8[Tensor, "b h w 3"],
        teacher_tokens: Float[Tensor, "b n d"],
        teacher_grid: tuple[int, int],
        labels: Int64[Tensor, " b"] | None,
    ) -> Terms:
        """Return the objective's terms for a batch of views.

        The teacher's features are passed in parts: under mixed precision Fabric casts
        tensors and tuples, but not tensors in our dataclass.
        """
        teacher = Features(tokens=teacher_tokens, grid=teacher_grid)
        terms: Terms = self.objective(self.student(pixels), teacher, labels)
        return terms


def _shown(figures: Values) -> str:
    return (
        f"Distilling, loss {figures['loss']:.3f}, "
        f"{figures['images_per_second']:.0f} images/s"
    )
