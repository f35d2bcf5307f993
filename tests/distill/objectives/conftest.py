import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test of an objective draws the same numbers, alone or among others."""
    torch.manual_seed(0)
