"""The training loop: a frozen teacher, a student, and an objective between them."""

import math

import torch
from jaxtyping import Float, UInt8
from lightning_fabric import Fabric
from rich.progress import Progress
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from backbones import Backbone, Features, Student
from bundle import UsageError
from distill.checkpoint import Checkpoint
from distill.loading import TrainingViews
from distill.objectives import Objective
from distill.objectives.objective import Terms
from distill.recipe import TrainSection

# The mean of each loss term over one epoch.
EpochMeans = dict[str, float]


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
    ) -> Terms:
        """Return the objective's terms for a batch of views.

        The teacher's features come in parts: Fabric casts inputs under mixed
        precision, and reaches into tensors and tuples but not into our dataclass.
        """
        teacher = Features(tokens=teacher_tokens, grid=teacher_grid)
        terms: Terms = self.objective(self.student(pixels), teacher)
        return terms


def train(
    student: Student,
    teacher: Backbone,
    objective: Objective,
    views: TrainingViews,
    section: TrainSection,
    checkpoint: Checkpoint,
    progress: Progress,
) -> tuple[EpochMeans, ...]:
    """Train `student` in place, continuing from the checkpoint where there is one.

    The weights after a continued run on CPU equal those of an uninterrupted one:
    views and order depend on seed and epoch alone, and the generators are saved.

    Raises:
        UsageError: the loss stopped being finite; the last checkpoint is kept.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=section.precision)
    pair = _Pair(student, objective)
    undecayed = {f"objective.{name}" for name in objective.undecayed()}
    groups = param_groups_weight_decay(
        pair, section.weight_decay, no_weight_decay_list=undecayed
    )
    optimizer = torch.optim.AdamW(groups, lr=section.learning_rate)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(section.epochs * len(views), 2),
        lr_min=section.final_learning_rate,
        warmup_t=math.ceil(section.warmup_epochs * len(views)),
        warmup_lr_init=section.learning_rate / 500,
        t_in_epochs=False,
    )
    model, optimizer = fabric.setup(pair, optimizer)
    logs = _resume(checkpoint, pair, optimizer)  # after setup: state follows the weights
    start = len(logs)
    teacher = teacher.to(fabric.device)
    task = progress.add_task(
        "Distilling", total=section.epochs * len(views), completed=start * len(views)
    )
    for epoch in range(start, section.epochs):
        model.train()
        sums: dict[str, float] = {}
        for batch, pixels in enumerate(views.epoch(epoch)):
            step = epoch * len(views) + batch
            schedule.step_update(step)
            terms = _step(fabric, model, optimizer, teacher, pixels)
            _require_finite(terms, step, checkpoint)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            progress.update(
                task,
                advance=1,
                description=f"Distilling, loss {sum(terms.values()):.3f}",
            )
        logs.append({name: value / len(views) for name, value in sums.items()})
        checkpoint.save(_state(pair, optimizer, logs))
    pair.eval()
    return tuple(logs)


def _step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    teacher: Backbone,
    pixels: UInt8[Tensor, "b h w 3"],
) -> dict[str, float]:
    pixels = fabric.to_device(pixels)
    with torch.no_grad(), fabric.autocast():
        target = teacher(pixels)
    terms = model(pixels, target.tokens, target.grid)
    optimizer.zero_grad()
    fabric.backward(torch.stack(list(terms.values())).sum())
    optimizer.step()
    return {name: value.item() for name, value in terms.items()}


def _require_finite(terms: dict[str, float], step: int, checkpoint: Checkpoint) -> None:
    if all(math.isfinite(value) for value in terms.values()):
        return
    shown = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    raise UsageError(
        f"The loss is not finite at step {step}: {shown}. Lower `learning_rate` or use "
        f'`precision = "32-true"`, remove {checkpoint.path.parent} and run again.'
    )


def _state(
    pair: _Pair, optimizer: torch.optim.Optimizer, logs: list[EpochMeans]
) -> dict[str, object]:
    return {
        "pair": pair.state_dict(),
        "optimizer": optimizer.state_dict(),
        "logs": logs,
        "generator": torch.get_rng_state(),
    }


def _resume(
    checkpoint: Checkpoint, pair: _Pair, optimizer: torch.optim.Optimizer
) -> list[EpochMeans]:
    """Take up an interrupted run, if there is one; return its epochs so far."""
    state = checkpoint.load()
    if state is None:
        return []
    pair.load_state_dict(state["pair"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["generator"])
    logs: list[EpochMeans] = state["logs"]
    return logs
