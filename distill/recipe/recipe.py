"""The recipe's model: every table and key of a distillation, checked before it starts."""

import math
from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from distill.recipe.data_section import DataSection
from distill.recipe.defaults import completed
from distill.recipe.sections import AnyObjectiveSection, ObjectiveSection, Section
from distill.recipe.student_section import StudentSection
from distill.recipe.teacher_section import Teachers, TeacherSection
from isogon.ood import DETECTORS, DetectorSpec

_UNBOUNDED = 1_000_000  # epochs, if only steps limit a run
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class UnfamiliarSection(Section):
    """One set of images that should be flagged as out-of-distribution (OOD)."""

    name: str = Field(pattern=_NAME, description="of the set, in every report")
    images: str = Field(description="as for [data]")
    kind: Literal["near", "far"] = Field(
        default="far", description="near: such as other classes of the same kind"
    )


class TrainSection(Section):
    """The optimisation: linear warm-up per step, then cosine decay or milestones."""

    epochs: int = Field(
        default=100,
        ge=0,
        description="passes over the images, at most; 0 for the closed-form start alone",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimiser steps, at most; without epochs exactly this number",
    )
    batch_size: int = Field(
        default=256, ge=2, description="images per step, over all processes"
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="micro-batches per step; a term over a batch is over one micro-batch",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        default="adamw", description="AdamW, or SGD with momentum"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="after the warm-up")
    final_learning_rate: float = Field(
        default=1e-5, ge=0, description="at the end of the cosine"
    )
    milestones: tuple[int, ...] = Field(
        default=(), description="epochs after which to divide by 10, instead of cosine"
    )
    warmup_share: float | None = Field(
        default=0.05, ge=0, lt=1, description="of all steps, in which the rate rises"
    )
    warmup_epochs: float | None = Field(
        default=None, ge=0, description="the same in epochs, in place of warmup_share"
    )
    layer_rate: float = Field(
        default=1.0,
        ge=0,
        description="factor on the learning rate of the embedding layer",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor on the learning rate from one stage of a convolutional "
        "network, or block of a transformer, to the one before it",
    )
    batch_statistics: Literal["free", "frozen", "re-estimated"] = Field(
        default="free",
        description="of BatchNorm: updated in training; kept as they are; or estimated "
        "once from training images before the start, and then kept",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="which weights become the student: the best on validation images "
        "(training images that no step uses), or the last",
    )
    validations: int = Field(
        default=8, ge=1, description="how often the validation images are evaluated"
    )
    weight_decay: float = Field(
        default=0.05, ge=0, description="of matrices and kernels, not of vectors"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=False, description="for sgd")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of all gradients"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of a moving average of the weights, which becomes the student",
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        default="32-true", description="of the computations of student and teacher"
    )
    compile: bool = Field(default=False, description="torch.compile the student")
    devices: int = Field(default=1, ge=1, description="processes per node, one per GPU")
    nodes: int = Field(default=1, ge=1, description="machines, started by torchrun")
    workers: int = Field(default=2, ge=0, le=256, description="per process, to read images")
    checkpoint_minutes: float = Field(
        default=5, ge=0, description="minutes between checkpoints; 0 for every step"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="of views, their order, and new layers"
    )
    loggers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        default=(),
        examples=[("wandb",), ("mlflow",), ("wandb", "mlflow")],
        description="what logs the run besides metrics.jsonl and TensorBoard; W&B is "
        "offline without WANDB_MODE, MLflow local without MLFLOW_TRACKING_URI",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_one_of_two(cls, section: Any) -> Any:
        """Settle epochs or steps, and a warm-up in epochs or as a share."""
        if not isinstance(section, dict):
            return section
        if section.get("steps") is not None:
            section = {"epochs": _UNBOUNDED} | section
        if section.get("warmup_share") is not None:
            return section | {"warmup_epochs": None}
        if section.get("warmup_epochs") is not None:
            return section | {"warmup_share": None}
        return {key: section[key] for key in section if key != "warmup_share"}

    def length(self, steps_per_epoch: int) -> int:
        """Return the number of optimiser steps of a run."""
        steps = self.epochs * steps_per_epoch
        return steps if self.steps is None else min(steps, self.steps)

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "TrainSection":
        given_length = self.steps is None and self.epochs > 0
        warmup = self.warmup_epochs
        if given_length and warmup is not None and warmup >= self.epochs:
            raise ValueError(
                f"expected warmup_epochs below epochs, got {warmup:g} and {self.epochs}"
            )
        return self

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if list(milestones) != sorted({max(1, epoch) for epoch in milestones}):
            raise ValueError("expected epochs from 1, ascending")
        return milestones

    @model_validator(mode="after")
    def _has_momentum(self) -> "TrainSection":
        if self.nesterov and not self.momentum:
            raise ValueError("expected momentum above 0 with nesterov")
        return self

    @model_validator(mode="after")
    def _divides(self) -> "TrainSection":
        if self.batch_size % self.parts or self.batch_size < 2 * self.parts:
            raise ValueError(
                f"expected batch_size to be a multiple of devices x nodes x accumulate = "
                f"{self.parts} with 2 images or more for each, got {self.batch_size}"
            )
        return self

    def warmup(self, steps_per_epoch: int) -> int:
        """Return the number of steps in which the learning rate rises."""
        if self.warmup_epochs is not None:
            return math.ceil(self.warmup_epochs * steps_per_epoch)
        assert self.warmup_share is not None  # one of them is set
        return math.ceil(self.warmup_share * self.length(steps_per_epoch))

    @property
    def parts(self) -> int:
        """The number of micro-batches of a step, over all processes."""
        return self.devices * self.nodes * self.accumulate


class DetectorSection(DetectorSpec):
    """A detector's name, its settings and its intended false-alarm rate."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DETECTORS:
            raise ValueError(f"expected one of {', '.join(DETECTORS)}")
        return name


class Recipe(Section):
    """Everything that determines a student."""

    name: str = Field(
        default="student", pattern=_NAME, description="of the student and of its bundle"
    )
    teacher: Teachers
    student: StudentSection
    data: DataSection
    unfamiliar: tuple[UnfamiliarSection, ...] = ()
    train: TrainSection = TrainSection()
    objective: tuple[AnyObjectiveSection, ...] = Field(
        default=({"name": "isogon"},), min_length=1, validate_default=True
    )
    ood: DetectorSection = DetectorSection()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, document: Any) -> Any:
        return completed(document)[0] if isinstance(document, dict) else document

    @field_validator("objective", "unfamiliar", mode="before")
    @classmethod
    def _in_two_brackets(cls, tables: object) -> object:
        if isinstance(tables, dict):
            raise ValueError("write the heading in two brackets, as in [[objective]]")
        return tables

    @field_validator("unfamiliar")
    @classmethod
    def _different_names(
        cls, unfamiliar: tuple[UnfamiliarSection, ...]
    ) -> tuple[UnfamiliarSection, ...]:
        names = [section.name for section in unfamiliar]
        if len(set(names)) < len(names):
            raise ValueError("expected a different name for each set")
        return unfamiliar

    @field_validator("objective")
    @classmethod
    def _named_once(
        cls, objectives: tuple[ObjectiveSection, ...]
    ) -> tuple[ObjectiveSection, ...]:
        names = [section.label for section in objectives]
        if len(set(names)) < len(names):
            raise ValueError("expected each objective once; change its weight instead")
        return objectives

    @model_validator(mode="after")
    def _suits_its_objectives(self) -> "Recipe":
        for section in self.objective:
            section.require_batch(self.train.batch_size, self.train.parts)
        return self

    @model_validator(mode="after")
    def _suits_synthetic_images(self) -> "Recipe":
        if not self.data.synthetic:
            return self
        labelled = [one.label for one in self.objective if one.needs_labels]
        if labelled or self.data.pseudo_classes:
            raise ValueError(
                f"expected `synthetic = 0` in [data] with "
                f"{' and '.join(labelled) or 'pseudo_classes'}: synthetic images have no "
                f"class"
            )
        if any(one.path is not None for one in self.teachers):
            raise ValueError(
                "expected `synthetic = 0` in [data] with `path` in [teacher]: the teacher "
                "has no embeddings of synthetic images"
            )
        return self

    @property
    def teachers(self) -> tuple[TeacherSection, ...]:
        """The [teacher], or each [[teacher]] in turn."""
        one = self.teacher
        return (one,) if isinstance(one, TeacherSection) else one

    @property
    def of_neighbours(self) -> bool:
        """Whether an objective needs batches of neighbours."""
        return any(section.of_neighbours for section in self.objective)
