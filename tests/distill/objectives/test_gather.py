"""Two processes (DistributedDataParallel) learn the same as one with the whole batch."""

import copy
import datetime
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill.objectives import (
    Objective,
    Sizes,
    Weighted,
    objective_class,
    objective_names,
)
from distill.objectives.terms import whole_batch
from isogon.networks import Features

Found = dict[str, dict[str, float]]
RANKS, BATCH, TEACHER, STUDENT = 2, 12, 8, 6


class Pair(nn.Module):
    """A student of one layer, and an objective."""

    def __init__(self, objective: Objective, width: int) -> None:
        super().__init__()
        self.student = nn.Linear(5, width)
        self.objective = objective

    def forward(
        self,
        images: torch.Tensor,
        tokens: torch.Tensor,
        labels: torch.Tensor,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        student = Features(tokens=self.student(images), grid=(2, 2))
        terms = self.objective(student, Features(tokens=tokens, grid=grid), labels)
        return torch.stack(list(terms.values())).sum()


def of_recipe(name: str, width: int = STUDENT, **keys: object) -> tuple[Objective, int]:
    """Return an objective as a recipe's table makes it, and the student's width."""
    found = objective_class(name)
    section = found.section.model_validate({"name": name, **keys})
    sizes = Sizes(teacher_width=TEACHER, student_width=width, classes=3)
    return found.from_section(section, sizes), width


def objectives() -> dict[str, tuple[Objective, int]]:
    """Return every objective by its name with the student's width, and some variants.

    With equal widths `nd` has no BatchNorm, whose statistics each process has for itself.
    """
    parts = {"isogon": (1.0, of_recipe("isogon")[0]), "rkd": (3.0, of_recipe("rkd")[0])}
    made = {name: of_recipe(name) for name in objective_names() if name != "nd"}
    return made | {
        "nd": of_recipe("nd", TEACHER),
        "coss of one width": of_recipe("coss", TEACHER),
        "vkd standardise": of_recipe("vkd", normalization="standardise"),
        "vkd whiten": of_recipe("vkd", normalization="whiten"),
        "several": (Weighted(parts), STUDENT),
    }


# Objectives that are also tried on embeddings alone.
NO_CELLS = ("cospress", "isogon", "vkd whiten")
CASES = (*objectives(), *(f"{name}, no cells" for name in NO_CELLS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An objective with its batch, and the same after one process had the whole batch."""

    pair: Pair
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    grid: tuple[int, int]
    alone: Pair
    loss: float


def prepared(objective: Objective, width: int, grid: tuple[int, int]) -> Case:
    images = torch.randn(BATCH, 5, 5).double()
    tokens = torch.randn(BATCH, 1 + grid[0] * grid[1], TEACHER).double() + 0.3
    labels = torch.arange(BATCH) % 3
    pair = Pair(objective, width).double()
    if objective.start_on != "nothing":
        objective.start([(Features(tokens=tokens, grid=grid), labels)])
    alone = copy.deepcopy(pair)
    loss = alone(images, tokens, labels, grid)
    loss.backward()
    batch = (images, tokens, labels)
    return Case(pair=pair, batch=batch, grid=grid, alone=alone, loss=loss.item())


def differences(case: Case, rank: int) -> dict[str, float]:
    """Return the relative differences of two processes from one, in loss and gradients."""
    mine = [part.chunk(RANKS)[rank] for part in case.batch]
    model = DistributedDataParallel(case.pair)  # must live until the backward pass is done
    loss = model(*mine, case.grid)
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    found = {"loss": abs(mean.item() / RANKS / case.loss - 1)}
    expected = dict(case.alone.named_parameters())
    for name, parameter in case.pair.named_parameters():
        assert parameter.grad is not None, name
        gradient = expected[name].grad
        assert gradient is not None, name
        scale = gradient.abs().max().clamp_min(1e-6)
        found[name] = ((parameter.grad - gradient).abs().max() / scale).item()
    return found


def learn_in_one_of_two(rank: int, folder: Path) -> None:
    """Write, per objective, the differences from one process to `folder/RANK.json`.

    Both processes make the same objectives and batches.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.manual_seed(0)
    cases = {}
    for name, (objective, width) in objectives().items():
        cases[name] = prepared(objective, width, (2, 2))
    for name in NO_CELLS:
        objective, width = objectives()[name]
        cases[f"{name}, no cells"] = prepared(objective, width, (0, 0))
    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),
    )
    found = {name: differences(case, rank) for name, case in cases.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def worlds(
    forked: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> list[Found]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("world")
    assert forked(lambda rank: learn_in_one_of_two(rank, folder)) == ["", ""]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_loss_and_gradients_of_one(
    worlds: list[Found], name: str
) -> None:
    for found in worlds:
        assert set(found) == set(CASES)
        assert len(found[name]) >= 3  # loss, and the student's weight and bias
        assert all(value <= 1e-9 for value in found[name].values()), found[name]


def test_one_process_has_its_whole_batch() -> None:
    features = torch.randn(3, 2)
    assert whole_batch(features) is features
