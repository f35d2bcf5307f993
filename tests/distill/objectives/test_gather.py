"""Two processes learn what one does with the whole batch; see `world.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.objectives.terms import whole_batch

WORLD = Path(__file__).parent / "world.py"
ROOT = WORLD.parents[3]
GLOBAL = [
    "cospress",
    "cospress, no cells",
    "coss",
    "coss of one width",
    "isogon",
    "isogon, no cells",
    "rkd",
    "several",
    "vkd standardise",
    "vkd whiten",
    "vkd whiten, no cells",
]
LOCAL = ["cosine", "kd", "nd of one width", "proteus", "queue", "vkd layer_norm"]
Found = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("world")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORLD), str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        messages = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(messages)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", GLOBAL + LOCAL)
def test_two_processes_have_the_loss_and_gradients_of_one(
    worlds: list[Found], name: str
) -> None:
    for found in worlds:
        assert set(found) == {*GLOBAL, *LOCAL}
        assert len(found[name]) >= 3  # loss, and the student's weight and bias
        assert all(value <= 1e-9 for value in found[name].values()), found[name]


def test_one_process_has_its_whole_batch() -> None:
    features = torch.randn(3, 2)
    assert whole_batch(features) is features
