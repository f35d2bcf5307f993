"""Numpy statistics as constants of the graph."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def float32(array: np.ndarray) -> Float[Tensor, "..."]:
    """Return the array as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
