"""A queue of teacher vectors as pseudo-classes, and similarities between cells."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Sizes, StartOn, Terms
from distill.objectives.terms import precise, whole_batch
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features


class QueueSection(ObjectiveSection):
    """The teacher's latest vectors as pseudo-classes, and patch similarity."""

    size: int = Field(default=2048, ge=2, description="teacher vectors in the queue")
    temperature: float = Field(
        default=0.07, gt=0, description="of the similarities to the queue"
    )
    cells_weight: float = Field(
        default=1.0, ge=0, description="of the similarities between patches"
    )
    cells_temperature: float = Field(
        default=0.07, gt=0, description="of the similarities between patches"
    )


class Queue(Objective):
    """Match the teacher's similarities to references, as a classifier's soft labels.

    The references are teacher vectors, so no classes are needed. Logits are cosines over a
    temperature; p is from the teacher's vector and q from the student's, which passes a
    trained linear head h to the teacher's width (dropped after training),

        queue = mean_b KL(p || q), over the latest teacher vectors, with this batch
        cells = mean_b,i KL(p || q), of cell i over the teacher's cells of its own image

    The queue starts with training images. Each training step first adds the batch of all
    processes and drops the oldest vectors. If the grids differ, the teacher's cells are
    resampled to the student's grid. Without cells (patch tokens) only `queue` remains.

    Written from the description of LightlyTrain's default method, distillation v3, in its
    documentation (a queue of teacher embeddings as pseudo-classifier, a second loss on
    spatial features, both temperatures 0.07, weight 1 on the second), not from its code.
    The form of the second loss is our interpretation, and so is one head for both.
    """

    section = QueueSection

    queue: Tensor  # [size, teacher_width], unit vectors, newest first
    known: Tensor  # [size], whether a row has been filled

    def __init__(
        self,
        teacher_width: int,
        student_width: int,
        *,
        size: int,
        temperature: float,
        cells_weight: float,
        cells_temperature: float,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(student_width, teacher_width)
        self.register_buffer("queue", torch.zeros(size, teacher_width))
        self.register_buffer("known", torch.zeros(size, dtype=torch.bool))
        self.temperature = temperature
        self.cells_weight = cells_weight
        self.cells_temperature = cells_temperature

    @classmethod
    def from_section(cls, section: QueueSection, sizes: Sizes) -> "Queue":
        """Return the objective that a recipe's table asks for."""
        return cls(
            sizes.teacher_width,
            sizes.student_width,
            size=section.size,
            temperature=section.temperature,
            cells_weight=section.cells_weight,
            cells_temperature=section.cells_temperature,
        )

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms queue and cells."""
        if self.training:
            self._take_in(whole_batch(teacher.pooled))
        ours = self.head(student.tokens)
        terms = {
            "queue": _divergence(
                teacher.pooled, ours[:, 0], self.queue, self.temperature, self.known
            )
        }
        if teacher.grid == (0, 0):
            return terms
        cells = teacher.on_grid(student.grid).cells
        divergence = _divergence(cells, ours[:, 1:], cells, self.cells_temperature)
        return terms | {"cells": self.cells_weight * divergence}

    @property
    def start_on(self) -> StartOn:
        """A sample of the training images fills the queue."""
        return "sample"

    @torch.no_grad()
    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Fill the queue."""
        for features, _ in sample:
            self._take_in(features.pooled.to(self.queue.device))

    @torch.no_grad()
    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Start from the transpose of the compression, its best linear inverse."""
        self.head.weight.copy_(compression.T)
        self.head.bias.zero_()

    def to_teacher(self) -> nn.Linear:
        """Return the head."""
        return self.head

    @torch.no_grad()
    def _take_in(self, vectors: Float[Tensor, "b d"]) -> None:
        size = len(self.queue)
        newest = F.normalize(precise(vectors), dim=1).to(self.queue.dtype)
        known = torch.ones_like(self.known[:1]).expand(len(newest))
        self.queue.copy_(torch.cat([newest, self.queue])[:size])
        self.known.copy_(torch.cat([known, self.known])[:size])


def _divergence(
    teacher: Float[Tensor, "*b d"],
    student: Float[Tensor, "*b d"],
    references: Float[Tensor, "*sets n d"],
    temperature: float,
    known: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of KL(p || q) over the vectors, over the known references."""
    with torch.autocast(teacher.device.type, enabled=False):
        directions = F.normalize(precise(references), dim=-1).mT

        def log_similarities(vectors: Float[Tensor, "*b d"]) -> Float[Tensor, "*b n"]:
            logits = F.normalize(precise(vectors), dim=-1) @ directions / temperature
            if known is not None:
                logits = logits.masked_fill(~known, torch.finfo(logits.dtype).min)
            return F.log_softmax(logits, dim=-1)

        p, q = log_similarities(teacher), log_similarities(student)
        return (p.exp() * (p - q)).sum(dim=-1).mean()
