"""KD: predict the classes, and the teacher's class probabilities."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from distill.objectives.objective import Labels, Objective, Sizes, StartOn, Terms
from distill.objectives.terms import precise, require_classes, required, required_below
from distill.recipe.sections import ObjectiveSection
from isogon.networks import Features
from isogon.ood import LinearProbe

# The logit of a class without images: its probability underflows to 0.
_ABSENT = -1e4
_PROBED = 50_000  # images for the teacher's classifier, at most


class KdSection(ObjectiveSection):
    """KD with cross-entropy, arXiv:1503.02531, as in KD++; needs classes."""

    needs_labels = True

    temperature: float = Field(default=4.0, gt=0, description="of both models' softmax")
    kd_weight: float = Field(
        default=1.0,
        ge=0,
        description="of the KL divergence; the cross-entropy has weight 1",
    )
    warmup_epochs: float = Field(
        default=0.0, ge=0, description="in which kd_weight grows from 0"
    )


class Kd(Objective):
    """Cross-entropy, plus kd_weight T^2 KL(softmax(l_t / T) || softmax(l_s / T)).

    l_s are logits of the student: Linear(d_s, classes) on its pooled vector, trained and
    then dropped. l_t are the teacher's. The KL is a mean over images. Its weight grows from
    0 as min(1, epoch / warmup_epochs), with the number of finished epochs. Together with
    the objective ND this is KD++, whose loss is CE + kd_weight T^2 KL + weight * ND. Its
    (T, kd_weight, weight of ND, warmup_epochs) were (4, 1 to 3.5, 2, 20) on CIFAR-100 and
    (1, 2.5 to 4, 1, 5) on ImageNet.

    Reference: Hinton et al., "Distilling the Knowledge in a Neural Network",
    arXiv:1503.02531, as in KD++, Wang et al., arXiv:2305.17007; the KL equals the
    authors' code to 1e-9 in float64. Where we differ: our teachers have no classifier
    for these classes, so l_t are from a linear probe. It is a logistic regression, fitted
    at the start on the teacher's pooled vectors of at most 50,000 training images without
    augmentation, and kept as buffers. The student's classifier is not part of the student.
    Classes may be pseudo-classes (our extension).
    """

    section = KdSection

    probe_weight: Tensor
    probe_bias: Tensor

    def __init__(
        self,
        teacher_width: int,
        student_width: int,
        classes: int,
        *,
        temperature: float,
        kd_weight: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        self.head = nn.Linear(student_width, classes)
        unknown = torch.full((classes, teacher_width), torch.nan)  # until the start
        self.register_buffer("probe_weight", unknown)
        self.register_buffer("probe_bias", torch.full((classes,), torch.nan))
        self.temperature = temperature
        self.kd_weight = kd_weight
        self.warmup_epochs = warmup_epochs
        self.ramp = 1.0

    @classmethod
    def from_section(cls, section: KdSection, sizes: Sizes) -> "Kd":
        """Return the objective that a recipe's table asks for."""
        require_classes(section.name, sizes.classes)
        return cls(
            sizes.teacher_width,
            sizes.student_width,
            sizes.classes,
            temperature=section.temperature,
            kd_weight=section.kd_weight,
            warmup_epochs=section.warmup_epochs,
        )

    def forward(self, student: Features, teacher: Features, labels: Labels = None) -> Terms:
        """Return the terms cross_entropy and kd."""
        numbers = required(labels, "kd", len(self.probe_bias))
        with torch.autocast(student.tokens.device.type, enabled=False):
            ours = self.head(precise(student.pooled))
            theirs = F.linear(precise(teacher.pooled), self.probe_weight, self.probe_bias)
            divergence = kd_loss(ours, theirs, self.temperature)
            return {
                "cross_entropy": F.cross_entropy(ours, numbers),
                "kd": self.kd_weight * self.ramp * divergence,
            }

    @torch.no_grad()
    def begin(self, compression: Float[Tensor, "s t"], length: float) -> None:
        """Set the student's classifier to the teacher's, composed with the compression."""
        weight = self.probe_weight @ compression.T.to(self.probe_weight)
        self.head.weight.copy_(length * weight)
        self.head.bias.copy_(self.probe_bias)

    @property
    def start_on(self) -> StartOn:
        """Everything; the probe uses the first 50,000 images."""
        return "everything"

    @torch.no_grad()
    def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
        """Fit the teacher's classifier.

        Raises:
            UsageError: a class number is not below `classes`, or there is only one class.
        """
        classes = len(self.probe_bias)
        vectors: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        images = 0
        for features, labels in sample:
            vectors.append(features.pooled.float().cpu().numpy())
            numbers.append(required_below(labels, "kd", classes).numpy())
            images += len(vectors[-1])
            if images >= _PROBED:
                break
        probe = LinearProbe.fit(
            np.concatenate(vectors)[:_PROBED], np.concatenate(numbers)[:_PROBED]
        )
        self.probe_weight.zero_()
        self.probe_bias.fill_(_ABSENT)
        rows = torch.from_numpy(probe.classes)
        self.probe_weight[rows] = torch.from_numpy(probe.weight).to(self.probe_weight)
        self.probe_bias[rows] = torch.from_numpy(probe.bias).to(self.probe_bias)

    def at_epoch(self, epoch: float) -> None:
        """Set the factor on the divergence."""
        done = epoch >= self.warmup_epochs
        self.ramp = 1.0 if done else epoch / self.warmup_epochs


def kd_loss(
    student_logits: Float[Tensor, "b c"],
    teacher_logits: Float[Tensor, "b c"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return T^2 KL(softmax(l_t / T) || softmax(l_s / T)), a mean over images."""
    divergence = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2
