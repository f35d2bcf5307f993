import math

import pytest
import torch
import torch.nn.functional as F

from backbones import Features
from distill import recipe_from_document
from distill.objectives import (
    Cosine,
    CosPress,
    Coss,
    Isogon,
    Proteus,
    Rkd,
    Vkd,
    objective_from_recipe,
)
from distill.objectives.sne import cosines, sne_divergence
from distill.objectives.vkd import vkd_loss

torch.manual_seed(0)
TEMPERATURES = tuple(step / 100 for step in range(1, 11))


def naive_sne(target: torch.Tensor, learned: torch.Tensor, temperatures: tuple) -> float:
    """The definition, with loops and probabilities: no log space, no closed form."""

    def joint(vectors: torch.Tensor, temperature: float) -> list[list[float]]:
        n = len(vectors)
        directions = F.normalize(vectors, dim=1)
        weight = [[0.0] * n for _ in range(n)]
        for i in range(n):
            for j in range(n):
                if i != j:
                    cosine = (directions[i] @ directions[j]).item()
                    weight[i][j] = math.exp(cosine / temperature)
        p = [[w / sum(row) for w in row] for row in weight]
        symmetric = [[p[i][j] + p[j][i] for j in range(n)] for i in range(n)]
        total = sum(map(sum, symmetric))
        return [[value / total for value in row] for row in symmetric]

    found = []
    for temperature in temperatures:
        p, q = joint(target, temperature), joint(learned, temperature)
        found.append(
            sum(
                p[i][j] * (math.log(p[i][j]) - math.log(q[i][j]))
                for i in range(len(p))
                for j in range(len(p))
                if i != j
            )
        )
    return sum(found) / len(found)


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


def test_sne_equals_a_naive_loop() -> None:
    target, learned = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    temperatures = (0.05, 0.1, 0.5)
    found = sne_divergence(target, learned, temperatures)
    assert found.item() == pytest.approx(
        naive_sne(target, learned, temperatures), rel=1e-10
    )


def test_sne_gradient_equals_finite_differences() -> None:
    target = torch.randn(2, 6, 5).double()
    learned = torch.randn(2, 6, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: sne_divergence(target, z, (0.05, 0.1)), learned
    )


def test_sne_is_blind_to_rotation_and_to_each_vectors_length() -> None:
    target, learned = torch.randn(8, 5).double(), torch.randn(8, 4).double()
    rotation = torch.linalg.qr(torch.randn(4, 4).double()).Q
    lengths = torch.rand(8, 1).double() + 0.5
    before = sne_divergence(target, learned, TEMPERATURES)
    after = sne_divergence(target, lengths * (learned @ rotation), TEMPERATURES)
    assert after.item() == pytest.approx(before.item())


def test_sne_is_zero_between_equal_sets_and_positive_otherwise() -> None:
    target = torch.randn(8, 5)
    assert sne_divergence(target, 3 * target, TEMPERATURES).item() == pytest.approx(
        0, abs=1e-5
    )
    assert sne_divergence(target, torch.randn(8, 5), TEMPERATURES).item() > 0


def test_sne_stays_finite_where_probabilities_underflow() -> None:
    opposite = torch.cat([torch.ones(4, 3), -torch.ones(4, 3)])
    learned = torch.randn(8, 3).requires_grad_()
    divergence = sne_divergence(opposite, learned, (0.01,))
    divergence.backward()
    assert torch.isfinite(divergence)
    assert learned.grad is not None
    assert torch.isfinite(learned.grad).all()


def test_sne_keeps_float32_under_autocast() -> None:
    target, learned = torch.randn(16, 8), torch.randn(16, 4)
    expected = sne_divergence(target, learned, TEMPERATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sne_divergence(target, learned, TEMPERATURES)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_sne_needs_two_vectors() -> None:
    with pytest.raises(ValueError, match="at least 2 vectors"):
        sne_divergence(torch.randn(1, 4), torch.randn(1, 4), TEMPERATURES)


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


def test_cosine_equals_its_formula_in_value_and_gradient() -> None:
    objective = Cosine(12, 6).double()
    student, teacher = features(4, (1, 1), 6), features(4, (1, 1), 12)
    s = student.tokens.double().requires_grad_()
    t = teacher.tokens.double()
    found = objective(Features(tokens=s, grid=(1, 1)), Features(tokens=t, grid=(1, 1)))[
        "cosine"
    ]
    found.backward()
    weight, bias = objective.expand.weight.detach(), objective.expand.bias.detach()
    value, gradient = 0.0, torch.zeros_like(s)
    for i in range(4):
        y, target = weight @ s[i, 0].detach() + bias, t[i, 0] / t[i, 0].norm()
        cosine = (y @ target) / y.norm()
        value += (1 - cosine.item()) / 4
        gradient[i, 0] = -weight.T @ (target - cosine * y / y.norm()) / y.norm() / 4
    assert found.item() == pytest.approx(value, rel=1e-12)
    assert s.grad is not None
    assert torch.allclose(s.grad, gradient, rtol=1e-9, atol=1e-12)


def losses(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms.values())).sum()


def turned(width: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(width, width).double()).Q


def at(pooled: torch.Tensor) -> Features:
    """Features whose class token, and only cell, is this vector."""
    return Features(tokens=torch.stack([pooled, pooled], dim=1), grid=(1, 1))


@pytest.mark.parametrize("widths", [(12, 6), (6, 12), (8, 8)])
def test_vkd_keeps_its_projection_orthonormal_under_weight_decay(
    widths: tuple[int, int],
) -> None:
    teacher_width, student_width = widths
    objective = Vkd(teacher_width, student_width, "layer_norm")
    # Decay on every 2-d parameter: what empties the released parametrisation.
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2, weight_decay=0.05)
    before = objective.projection.weight.detach().clone()
    for _ in range(20):
        terms = objective(
            features(9, (2, 2), student_width), features(9, (2, 2), teacher_width)
        )
        optimizer.zero_grad()
        losses(terms).backward()
        optimizer.step()
    q = objective.projection.weight.detach()
    small = q.T @ q if teacher_width >= student_width else q @ q.T
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)
    assert not torch.allclose(q, before)


def test_vkd_normalisations_do_what_their_names_say() -> None:
    teacher = torch.randn(50, 6).double() * torch.arange(1, 7) + 3
    zero = torch.zeros(50, 6).double()
    eye = torch.eye(6).double()
    layer = (teacher - teacher.mean(1, keepdim=True)) / teacher.std(
        1, keepdim=True, unbiased=False
    )
    found = vkd_loss(zero, teacher, eye, "layer_norm")
    assert found.item() == pytest.approx(F.smooth_l1_loss(zero, layer).item(), rel=1e-4)
    standard = (teacher - teacher.mean(0)) / teacher.std(0, unbiased=False)
    assert vkd_loss(standard, teacher, eye, "standardise").item() == pytest.approx(
        0, abs=1e-8
    )
    centred = teacher - teacher.mean(0)
    covariance = centred.T @ centred / 50
    values, vectors = torch.linalg.eigh(covariance)
    zca = centred @ vectors @ torch.diag(values**-0.5) @ vectors.T
    assert vkd_loss(zca, teacher, eye, "whiten").item() == pytest.approx(0, abs=1e-12)
    few = torch.randn(4, 6).double()  # fewer images than channels
    assert torch.isfinite(vkd_loss(few, few, eye, "whiten"))


def test_coss_equals_a_naive_loop_over_rows_and_columns() -> None:
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    objective = Coss(
        7, 7, weight_space=0.5, teacher_temperature=0.5, student_temperature=0.2
    )
    rows = [-F.cosine_similarity(student[i], teacher[i], dim=0) for i in range(5)]
    columns = [-F.cosine_similarity(student[:, j], teacher[:, j], dim=0) for j in range(7)]
    terms = objective(at(student), at(teacher))
    assert terms["cosine"].item() == pytest.approx(10 * torch.stack(rows).mean().item())
    assert terms["space"].item() == pytest.approx(5 * torch.stack(columns).mean().item())


def test_coss_gives_a_student_of_another_width_a_head() -> None:
    options = {"weight_space": 1.0, "teacher_temperature": 0.07, "student_temperature": 0.1}
    assert not list(Coss(7, 7, **options).parameters())
    assert Coss(12, 7, **options).head(torch.randn(2, 7)).shape == (2, 12)


def test_rkd_equals_a_naive_loop() -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 4).double()

    def distances(x: torch.Tensor) -> torch.Tensor:
        full = torch.stack([torch.stack([(a - b).norm() for b in x]) for a in x])
        return full / full[~torch.eye(5, dtype=torch.bool)].mean()

    def angle(x: torch.Tensor, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        norms = a.norm() * b.norm()
        return (a @ b / norms).item() if norms > 0 else 0.0

    triples = [(i, j, k) for i in range(5) for j in range(5) for k in range(5)]
    ours, theirs = (
        torch.tensor([angle(x, *triple) for triple in triples]) for x in (student, teacher)
    )
    terms = Rkd(distance_weight=1.0, angle_weight=1.0)(at(student), at(teacher))
    expected = F.smooth_l1_loss(distances(student), distances(teacher)).item()
    assert terms["distance"].item() == pytest.approx(expected)
    assert terms["angle"].item() == pytest.approx(
        F.smooth_l1_loss(ours, theirs).item(), rel=1e-5
    )


def test_rkd_is_blind_to_rotation_translation_and_scale_and_to_duplicates() -> None:
    teacher = torch.randn(6, 4).double()
    objective = Rkd(distance_weight=1.0, angle_weight=2.0)
    same = objective(at(3 * teacher @ turned(4) + 5), at(teacher))
    assert losses(same).item() == pytest.approx(0, abs=1e-10)
    twice = torch.cat([teacher, teacher]).requires_grad_()
    losses(objective(at(twice), at(torch.randn(12, 3).double()))).backward()
    assert twice.grad is not None
    assert torch.isfinite(twice.grad).all()


def test_proteus_is_the_mean_squared_error_of_its_heads() -> None:
    objective = Proteus(12, 6)
    student, teacher = features(3, (2, 2), 6), features(3, (4, 4), 12)
    terms = objective(student, teacher)
    token = ((objective.token(student.pooled) - teacher.pooled) ** 2).mean()
    every = (
        (objective.feature(student.tokens) - teacher.on_grid((2, 2)).tokens) ** 2
    ).mean()
    assert terms["token"].item() == pytest.approx(token.item())
    assert terms["feature"].item() == pytest.approx(every.item())


def isogon(**weights: float) -> Isogon:
    return Isogon(CosPress(12, 6, TEMPERATURES), **weights)


def test_isogon_adds_squared_differences_of_cosines_to_cospress() -> None:
    objective = isogon(angle_weight=10.0, pairs_weight=3.0)
    student, teacher = features(4, (2, 2), 6), features(4, (2, 2), 12)
    terms = objective(student, teacher)
    z = objective.cospress.compressed(teacher)

    def difference(a: torch.Tensor, b: torch.Tensor) -> float:
        cosine = F.cosine_similarity
        n = len(a)
        squares = [
            (cosine(a[i], a[j], dim=0) - cosine(b[i], b[j], dim=0)).item() ** 2
            for i in range(n)
            for j in range(n)
            if i != j
        ]
        return sum(squares) / len(squares)

    for name, ours, weight in (("angle", z, 10.0), ("pairs", student, 3.0)):
        tokens = [
            difference(a, b) for a, b in zip(ours.tokens, teacher.tokens, strict=True)
        ]
        expected = weight * (difference(ours.pooled, teacher.pooled) + sum(tokens) / 4)
        assert terms[name].item() == pytest.approx(expected, rel=1e-4)
    for name, value in objective.cospress(student, teacher).items():
        assert terms[name].item() == pytest.approx(value.item())


def test_isogons_angle_teaches_the_head_and_its_pairs_the_student() -> None:
    objective = isogon(angle_weight=1.0, pairs_weight=1.0)
    student = features(4, (2, 2), 6, requires_grad=True)
    terms = objective(student, features(4, (2, 2), 12))
    head = objective.cospress.compress.weight
    options = {"allow_unused": True, "retain_graph": True}
    to_student, to_head = torch.autograd.grad(
        terms["angle"], [student.tokens, head], **options
    )
    assert to_student is None
    assert to_head is not None
    to_student, to_head = torch.autograd.grad(
        terms["pairs"], [student.tokens, head], **options
    )
    assert to_student is not None
    assert to_head is None


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


def test_several_objectives_are_weighted_and_named() -> None:
    sections = recipe_from_document(
        {
            "teacher": {"name": "test_vit"},
            "student": {"name": "test_vit"},
            "data": {"images": "x"},
            "objective": [{"name": "rkd", "weight": 3.0}, {"name": "vkd"}],
        },
        where="here",
    ).objective
    objective = objective_from_recipe(sections, 12, 6)
    student, teacher = features(4, (2, 2), 6), features(4, (2, 2), 12)
    terms = objective(student, teacher)
    alone = Rkd(distance_weight=1.0, angle_weight=2.0)(student, teacher)
    assert set(terms) == {"rkd.distance", "rkd.angle", "vkd.vkd"}
    assert terms["rkd.angle"].item() == pytest.approx(3 * alone["angle"].item())
    undecayed = objective.undecayed()
    assert undecayed == {name for name, _ in objective.named_parameters()}
