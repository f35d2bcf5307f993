import math

import pytest
import torch
import torch.nn.functional as F

from distill.objectives.queue import Queue
from isogon.networks import Features


def queue(size: int = 6, **settings: float) -> Queue:
    given = {"temperature": 0.3, "cells_weight": 0.5, "cells_temperature": 0.2} | settings
    return Queue(5, 4, size=size, **given).double()


def features(width: int, images: int = 3) -> Features:
    return Features(tokens=torch.randn(images, 5, width).double(), grid=(2, 2))


def naive_divergence(
    teacher: torch.Tensor,
    student: torch.Tensor,
    references: torch.Tensor,
    temperature: float,
) -> float:
    """KL of one vector's soft labels, by loops and probabilities."""

    def probabilities(vector: torch.Tensor) -> list[float]:
        cosines = [F.cosine_similarity(vector, one, dim=0).item() for one in references]
        weights = [math.exp(cosine / temperature) for cosine in cosines]
        return [weight / sum(weights) for weight in weights]

    pairs = zip(probabilities(teacher), probabilities(student), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs)


def test_the_queue_objective_equals_a_naive_loop() -> None:
    objective, student, teacher = queue(), features(4), features(5)
    before = features(5)
    objective.start([(before, None)])
    terms = objective(student, teacher)
    references = torch.cat([teacher.pooled, before.pooled])
    ours = objective.head(student.tokens)
    expected = [
        naive_divergence(teacher.pooled[b], ours[b, 0], references, 0.3) for b in range(3)
    ]
    assert terms["queue"].item() == pytest.approx(sum(expected) / 3)
    cells = [
        naive_divergence(teacher.cells[b, i], ours[b, 1 + i], teacher.cells[b], 0.2)
        for b in range(3)
        for i in range(4)
    ]
    assert terms["cells"].item() == pytest.approx(0.5 * sum(cells) / 12)


def test_rows_that_nothing_has_filled_are_no_references() -> None:
    student, teacher = features(4), features(5)
    large, small = queue(size=50), queue(size=3)
    small.head = large.head
    assert large(student, teacher)["queue"].item() == pytest.approx(
        small(student, teacher)["queue"].item()
    )
    assert large.known.sum() == 3


def test_the_oldest_vectors_leave_and_evaluation_changes_nothing() -> None:
    objective = queue(size=4)
    first, second = features(5), features(5)
    objective(features(4), first)
    objective(features(4), second)
    newest = F.normalize(second.pooled, dim=1)
    assert torch.allclose(objective.queue[:3], newest)
    assert torch.allclose(objective.queue[3], F.normalize(first.pooled, dim=1)[0])
    objective.eval()(features(4), features(5))
    assert torch.allclose(objective.queue[:3], newest)


def test_a_batch_larger_than_the_queue_fills_it() -> None:
    objective = queue(size=2)
    objective(features(4), features(5))
    assert objective.known.all()


def test_a_student_that_reaches_the_teacher_has_no_loss() -> None:
    objective, teacher = queue(), features(5)
    objective.head = torch.nn.Identity()
    objective.start([(features(5), None)])
    terms = objective(teacher, teacher)
    assert all(abs(value.item()) < 1e-12 for value in terms.values())


def test_gradients_are_finite_and_reach_every_weight() -> None:
    objective, teacher = queue(), features(5)
    tokens = torch.randn(3, 10, 4).double().requires_grad_()
    terms = objective(Features(tokens=tokens, grid=(3, 3)), teacher)
    torch.stack(list(terms.values())).sum().backward()
    for gradient in (tokens.grad, objective.head.weight.grad, objective.head.bias.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


def test_cosines_keep_float32_under_autocast() -> None:
    objective = queue().float()
    student = Features(tokens=torch.randn(3, 5, 4), grid=(2, 2))
    teacher = Features(tokens=torch.randn(3, 5, 5), grid=(2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(student, teacher)
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_what_has_been_queued_is_saved() -> None:
    objective = queue()
    objective.start([(features(5), None)])
    again = queue()
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again.queue, objective.queue)
    assert again.known.sum() == 3
