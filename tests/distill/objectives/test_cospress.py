import pytest
import torch
import torch.nn.functional as F

from distill.objectives.cospress import CosPress
from distill.objectives.sne import cosines
from isogon.networks import Features

TEMPERATURES = tuple(step / 100 for step in range(1, 11))


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_cospress_teaches_the_head_by_sne_and_the_student_by_cosines() -> None:
    objective = CosPress(12, 6, TEMPERATURES)
    student, teacher = features(4, (2, 2), 6, requires_grad=True), features(4, (2, 2), 12)
    heads = list(objective.parameters())
    terms = objective(student, teacher)
    for name in ("local", "global"):
        grads = torch.autograd.grad(
            terms[name], [student.tokens, *heads], allow_unused=True, retain_graph=True
        )
        assert grads[0] is None
        assert all(grad is not None for grad in grads[1:])
    for name in ("feature", "token"):
        grads = torch.autograd.grad(
            terms[name], [student.tokens, *heads], allow_unused=True, retain_graph=True
        )
        assert grads[0] is not None
        assert all(grad is None for grad in grads[1:])


def test_cospress_feature_term_is_one_cosine_per_image() -> None:
    objective = CosPress(12, 6, TEMPERATURES)
    student, teacher = features(3, (2, 2), 6), features(3, (2, 2), 12)
    z = objective.compress(objective.norm(teacher.tokens))
    naive = [
        1 - (s.flatten() @ t.flatten() / (s.norm() * t.norm())).item()
        for s, t in zip(student.tokens, z, strict=True)
    ]
    found = objective(student, teacher)["feature"].item()
    assert found == pytest.approx(sum(naive) / 3, rel=1e-5)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_cospress_resamples_the_teachers_grid_to_the_students(axis: str) -> None:
    """A 4 x 8 map that varies along one axis becomes a 2 x 4 map that varies along it."""
    objective = CosPress(12, 6, TEMPERATURES)
    large = torch.randn(3, 4, 1, 12) if axis == "rows" else torch.randn(3, 1, 8, 12)
    cells = large.expand(3, 4, 8, 12).reshape(3, 32, 12)
    tokens = torch.cat([torch.randn(3, 1, 12), cells], dim=1)
    z = objective.compress(objective.norm(tokens))
    by_cell = z[:, 1:].mT.reshape(3, 6, 4, 8)
    small = F.interpolate(by_cell, size=(2, 4), mode="bilinear", antialias=True)
    varies, constant = (2, 3) if axis == "rows" else (3, 2)
    assert small.std(dim=varies).min() > 1e-3
    assert small.std(dim=constant).max() < 1e-5
    student = features(3, (2, 4), 6)
    target = torch.cat([z[:, :1], small.flatten(2).mT], dim=1)
    naive = 1 - F.cosine_similarity(student.tokens.flatten(1), target.flatten(1), dim=1)
    found = objective(student, Features(tokens=tokens, grid=(4, 8)))["feature"]
    assert found.item() == pytest.approx(naive.mean().item(), rel=1e-5)


def test_the_pca_start_keeps_inner_products_best() -> None:
    basis = torch.randn(3, 12)
    teacher = Features(tokens=torch.randn(40, 5, 3) @ basis, grid=(2, 2))
    objective = CosPress(12, 6, TEMPERATURES, pca_start=True)
    z = objective.compressed(teacher).pooled
    target = objective.norm(teacher.pooled)
    gap = (cosines(z) - cosines(target)).abs().mean()
    objective.start([(teacher, None)])
    z = objective.compressed(teacher).pooled
    assert gap > 0.05
    assert (cosines(z) - cosines(target)).abs().mean() < 1e-4  # rank 3 fits in width 6
