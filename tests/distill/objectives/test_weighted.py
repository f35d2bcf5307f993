from collections.abc import Iterable, Iterator

import pytest
import torch
import torch.nn.functional as F

from distill import recipe_from_document
from distill.objectives import Objective, Weighted, objective_from_recipe
from distill.objectives.cospress import CosPress
from distill.objectives.coss import Coss, CossSection
from distill.objectives.objective import Labels
from distill.objectives.rkd import Rkd
from isogon.errors import UsageError
from isogon.networks import Features


def features(batch: int, grid: tuple[int, int], width: int, **options: object) -> Features:
    tokens = torch.randn(batch, 1 + grid[0] * grid[1], width, **options)
    return Features(tokens=tokens, grid=grid)


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


def chosen(*tables: dict[str, object], classes: int = 0) -> Objective:
    sections = recipe_from_document(
        {
            "teacher": {"name": "test_vit"},
            "student": {"name": "test_vit"},
            "data": {"images": "x"},
            "objective": list(tables),
        },
        where="here",
    ).objective
    return objective_from_recipe(sections, 12, 6, classes)


def test_several_objectives_start_in_one_pass_each_on_what_it_asks_for() -> None:
    teacher, labels = torch.randn(90, 5, 12), torch.arange(90) % 3
    seen = []

    def once() -> Iterator[tuple[Features, torch.Tensor]]:
        for tokens, numbers in zip(teacher.split(30), labels.split(30), strict=True):
            seen.append(len(tokens))
            yield Features(tokens=tokens, grid=(2, 2)), numbers

    objective = chosen({"name": "cospress"}, {"name": "nd"}, {"name": "kd"}, classes=3)
    assert objective.start_on == "everything"
    objective.start(once())
    assert seen == [30, 30, 30]
    parts = objective.objectives
    alone = CosPress(12, 6, (0.1,), pca_start=True)
    assert alone.start_on == "sample"
    alone.start([(Features(tokens=teacher, grid=(2, 2)), None)])
    ours, theirs = parts["cospress"].compress.weight, alone.compress.weight
    assert torch.allclose(ours.abs(), theirs.abs(), atol=1e-3)  # signs are arbitrary
    mean = teacher[labels == 1, 0].mean(dim=0)
    assert torch.allclose(parts["nd"].class_means[1], mean, atol=1e-6)
    assert torch.isfinite(parts["kd"].probe_weight).all()


def test_a_sample_is_not_more_than_was_asked_for() -> None:
    sizes = []

    class Sampled(CosPress):
        def start(self, sample: Iterable[tuple[Features, Labels]]) -> None:
            sizes.append(sum(len(features.tokens) for features, _ in sample))

    objective = Weighted(
        {
            "one": (1.0, Sampled(4, 2, (0.1,), pca_start=True)),
            "other": (1.0, Sampled(4, 2, (0.1,), pca_start=True)),
        }
    )
    assert objective.start_on == "sample"
    batch = (Features(tokens=torch.randn(512, 2, 4), grid=(1, 1)), None)
    objective.start(iter([batch] * 6))
    assert sizes == [2048, 2048]


def test_several_objectives_hear_of_the_epoch() -> None:
    objective = chosen({"name": "kd", "warmup_epochs": 4.0}, {"name": "rkd"}, classes=3)
    objective.at_epoch(1.0)
    assert objective.objectives["kd"].ramp == 0.25


def test_only_maps_that_lead_to_the_teachers_vectors_are_offered() -> None:
    for name in ("cospress", "isogon", "vkd", "coss", "rkd", "proteus", "nd", "kd"):
        assert chosen({"name": name}, classes=3).to_teacher() is None, name
    objective = chosen({"name": "isogon"}, {"name": "cosine"})
    assert objective.to_teacher() is objective.objectives["cosine"].expand
    objective = chosen({"name": "queue"})
    assert objective.to_teacher() is objective.objectives["queue"].head
    options = {"weight_space": 1.0, "teacher_temperature": 1.0, "student_temperature": 1.0}
    student = torch.randn(3, 6)
    assert torch.equal(Coss(6, 6, **options).to_teacher()(student), student)


def test_the_cosines_map_points_where_the_teacher_points_once_learnt() -> None:
    student = torch.randn(64, 6)
    teacher = student @ torch.randn(6, 12) + torch.randn(12)
    objective = chosen({"name": "cosine"})
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    ours, theirs = (Features(tokens=x[:, None], grid=(0, 0)) for x in (student, teacher))
    for _ in range(400):
        loss = objective(ours, theirs)["cosine"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    layer = objective.to_teacher()
    assert layer is not None
    assert F.cosine_similarity(layer(student), teacher, dim=1).min() > 0.99


@pytest.mark.parametrize("name", ["kd", "nd"])
def test_objectives_that_learn_from_classes_refuse_images_without(name: str) -> None:
    with pytest.raises(UsageError, match=r"at least 2.*pseudo_classes = 100"):
        chosen({"name": name})


def test_only_what_compares_cells_needs_tokens() -> None:
    names = (
        "cospress",
        "isogon",
        "vkd",
        "coss",
        "rkd",
        "proteus",
        "cosine",
        "nd",
        "kd",
        "queue",
    )
    needing = {n for n in names if chosen({"name": n}, classes=3).needs_tokens}
    assert needing == {"proteus"}
    assert chosen({"name": "rkd"}, {"name": "proteus"}).needs_tokens


def test_batches_of_neighbours_are_a_choice_of_coss() -> None:
    with pytest.raises(UsageError, match="batches"):
        chosen({"name": "coss", "batches": "sorted"})
    section = CossSection(name="coss", batches="neighbours")
    assert section.batches == "neighbours"
    assert CossSection(name="coss").batches == "random"
