"""The generators' states, as the processes of a run keep and restore them."""

import torch

from distill.training.checkpoint import generator_state, restore_generators


def test_a_row_of_several_states_restores_its_own_generator() -> None:
    """A checkpoint holds a row for each process; all but the first start inside the array."""
    device = torch.device("cpu")
    with torch.random.fork_rng():
        states, draws = [], []
        for seed in (1, 2, 3):
            torch.manual_seed(seed)
            states.append(generator_state(device))
            draws.append(torch.rand(5))
        for row, expected in zip(torch.stack(states), draws, strict=True):
            restore_generators(row)
            assert torch.equal(torch.rand(5), expected)
