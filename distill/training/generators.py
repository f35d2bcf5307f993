"""The generators that dropout and the like draw from, as bytes."""

import torch
from torch import Tensor


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the generators that dropout draws from, as bytes."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states).to(device)


def restore_generators(state: Tensor) -> None:
    """Go on drawing where `generator_state` was taken."""
    # A slice is copied: torch 2.15 reads a state from the start of its storage.
    own = len(torch.get_rng_state())
    torch.set_rng_state(state[:own].clone())
    if torch.cuda.is_available() and len(state) > own:
        torch.cuda.set_rng_state(state[own:].clone())
