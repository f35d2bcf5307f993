"""Numpy statistics as constants, and reductions whose shapes every tool infers.

`amin`, `logsumexp` and `vector_norm` become ReduceMin, ReduceLogSumExp and ReduceL2. Their
axes are an input since opset 18, which ONNX Runtime's `quant_pre_process` does not read:
it fails where their results are subtracted or multiplied. TopK and ReduceSum it knows.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def float32(array: np.ndarray) -> Float[Tensor, "..."]:
    """Return the array as a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def smallest(values: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Return the minimum of each row."""
    return torch.topk(values, 1, dim=1, largest=False).values[:, 0]


def log_sum_exp(values: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Return log(sum(exp(values))) of each row, of values of any size."""
    largest = torch.topk(values, 1, dim=1).values
    return torch.exp(values - largest).sum(dim=1).log() + largest[:, 0]


def length(vectors: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Return the norm of each row."""
    return (vectors * vectors).sum(dim=1).sqrt()
