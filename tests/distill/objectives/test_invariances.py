"""The changes of features to which each objective is invariant, and those to which not."""

import pytest
import torch

from distill.objectives import Objective
from distill.objectives.cosine import Cosine
from distill.objectives.cospress import CosPress
from distill.objectives.coss import Coss
from distill.objectives.isogon import IsogonObjective
from distill.objectives.kd import Kd
from distill.objectives.nd import Nd
from distill.objectives.proteus import Proteus
from distill.objectives.queue import Queue
from distill.objectives.rkd import Rkd
from distill.objectives.vkd import Vkd
from isogon.networks import Features

LABELS = torch.arange(12) % 3
TEMPERATURES = (0.05, 0.1)


def features(width: int) -> Features:
    return Features(tokens=torch.randn(12, 5, width).double() + 0.5, grid=(2, 2))


def objectives(teacher: Features) -> dict[str, Objective]:
    """Every objective from width 6 to 8, in evaluation mode and started on `teacher`."""
    cospress = CosPress(8, 6, TEMPERATURES, pca_start=True)
    made: dict[str, Objective] = {
        "cosine": Cosine(8, 6),
        "cospress": cospress,
        "isogon": IsogonObjective(8, 6, pairs_weight=10.0),
        "vkd": Vkd(8, 6, "layer_norm"),
        "vkd, standardise": Vkd(8, 6, "standardise"),
        "vkd, whiten": Vkd(8, 6, "whiten"),
        "coss": Coss(
            8, 6, weight_space=1.0, teacher_temperature=1.0, student_temperature=1.0
        ),
        "rkd": Rkd(distance_weight=1.0, angle_weight=2.0),
        "proteus": Proteus(8, 6),
        "queue": Queue(
            8, 6, size=16, temperature=0.3, cells_weight=1.0, cells_temperature=0.3
        ),
        "nd": Nd(8, 6, 3),
        "kd": Kd(8, 6, 3, temperature=2.0, kd_weight=1.0, warmup_epochs=0.0),
    }
    for objective in made.values():
        objective.double().eval()
        if objective.start_on != "nothing":
            objective.start([(teacher, LABELS)])
    return made


NAMES = [
    "cosine",
    "cospress",
    "isogon",
    "vkd",
    "vkd, standardise",
    "vkd, whiten",
    "coss",
    "rkd",
    "proteus",
    "queue",
    "nd",
    "kd",
]


def terms(
    objective: Objective, student: Features, teacher: Features, labels: torch.Tensor
) -> dict[str, float]:
    found = objective(student, teacher, labels)
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_does_not_matter_but_whose_teacher_is_whose_does(
    name: str,
) -> None:
    student, teacher = features(6), features(8)
    objective = objectives(teacher)[name]
    order = torch.randperm(12)
    before = terms(objective, student, teacher, LABELS)

    def shuffled(of: Features) -> Features:
        return Features(tokens=of.tokens[order], grid=of.grid)

    both = terms(objective, shuffled(student), shuffled(teacher), LABELS[order])
    assert both == pytest.approx(before, rel=1e-9)
    one = terms(objective, shuffled(student), teacher, LABELS)
    assert sum(one.values()) != pytest.approx(sum(before.values()), rel=1e-6)


def scaled_teacher(teacher: torch.Tensor) -> torch.Tensor:
    """Each image has a different norm."""
    return teacher * torch.linspace(0.5, 2, 12).double()[:, None, None]


def shifted_teacher(teacher: torch.Tensor) -> torch.Tensor:
    """A constant on all channels."""
    return teacher + 0.7


def turned_teacher(teacher: torch.Tensor) -> torch.Tensor:
    return teacher @ torch.linalg.qr(torch.randn(8, 8).double()).Q


def moved_teacher(teacher: torch.Tensor) -> torch.Tensor:
    """Another origin and unit."""
    return 3 * teacher + torch.randn(8).double()


def channelwise_teacher(teacher: torch.Tensor) -> torch.Tensor:
    """Another origin and unit per channel."""
    return teacher * torch.linspace(0.5, 2, 8).double() + torch.randn(8).double()


CHANGES = [
    scaled_teacher,
    shifted_teacher,
    turned_teacher,
    moved_teacher,
    channelwise_teacher,
]
# The changes of the teacher, without a new start, to which a term is blind.
BLIND = {
    ("cosine", "cosine"): {scaled_teacher},
    ("cospress", "token"): {scaled_teacher, shifted_teacher},  # by the head's LayerNorm
    ("cospress", "feature"): {scaled_teacher, shifted_teacher},
    ("cospress", "global"): {scaled_teacher},
    ("isogon", "token"): {scaled_teacher},
    ("isogon", "feature"): {scaled_teacher},
    ("isogon", "pairs"): {scaled_teacher, turned_teacher},
    ("vkd", "vkd"): {scaled_teacher, shifted_teacher},
    ("vkd, standardise", "vkd"): {shifted_teacher, moved_teacher, channelwise_teacher},
    ("vkd, whiten", "vkd"): {shifted_teacher, moved_teacher},
    ("coss", "cosine"): {scaled_teacher},
    ("coss", "space"): set(),
    ("rkd", "distance"): {shifted_teacher, turned_teacher, moved_teacher},
    ("rkd", "angle"): {shifted_teacher, turned_teacher, moved_teacher},
    ("proteus", "token"): set(),
    ("queue", "queue"): {scaled_teacher},
    ("queue", "cells"): {scaled_teacher},
    ("kd", "cross_entropy"): set(CHANGES),  # it does not look at the teacher
    ("kd", "kd"): set(),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(("name", "term"), BLIND)
def test_a_term_is_blind_to_some_changes_of_the_teacher_and_to_no_others(
    name: str, term: str, change: object
) -> None:
    student, teacher = features(6), features(8)
    objective = objectives(teacher)[name]
    before = terms(objective, student, teacher, LABELS)[term]
    other = Features(tokens=change(teacher.tokens), grid=teacher.grid)
    after = terms(objective, student, other, LABELS)[term]
    blind = after == pytest.approx(before, rel=1e-3 if name == "vkd" else 1e-4)
    assert blind == (change in BLIND[name, term])


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_known_by_its_embeddings_alone_does_unless_tokens_are_needed(
    name: str,
) -> None:
    student, teacher = features(6), features(8)
    embeddings = Features(tokens=teacher.tokens[:, :1], grid=(0, 0))
    objective = objectives(teacher)[name]
    if objective.needs_tokens:
        assert name == "proteus"
        with pytest.raises(ValueError, match="gives only embeddings"):
            objective(student, embeddings, LABELS)
        return
    objective = objectives(embeddings)[name]
    found = objective(student, embeddings, LABELS)
    whole = objective(student, teacher, LABELS)
    left_out = {"local", "feature"} if name in {"cospress", "isogon"} else set()
    left_out |= {"cells"} if name == "queue" else set()
    assert set(found) == set(whole) - left_out
    for term in set(found) - {"angle", "pairs", "vkd"}:
        assert found[term].item() == pytest.approx(whole[term].item(), rel=1e-9)


def test_vkd_compares_pooled_vectors_where_there_are_no_cells() -> None:
    student, teacher = features(6), features(8)
    objective = Vkd(8, 6, "layer_norm").double()

    def alone(of: Features) -> Features:
        return Features(tokens=of.tokens[:, :1], grid=(0, 0))

    def twice(of: Features) -> Features:
        return Features(tokens=of.tokens[:, [0, 0]], grid=(1, 1))

    found = objective(student, alone(teacher))["vkd"]
    assert found.item() == objective(twice(student), twice(teacher))["vkd"].item()
