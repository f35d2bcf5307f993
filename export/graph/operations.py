"""Operations that the detectors' graphs share, exported so that every tool reads them.

`amin`, `logsumexp` and `vector_norm` would become ReduceMin, ReduceLogSumExp and ReduceL2.
Since opset 18 their axes are an input, which ONNX Runtime's `quant_pre_process` does not
read: it fails if their results are subtracted or multiplied. TopK and ReduceSum work.
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
    """Return log(sum(exp(values))) of each row; large values do not overflow."""
    largest = torch.topk(values, 1, dim=1).values
    return torch.exp(values - largest).sum(dim=1).log() + largest[:, 0]


def length(vectors: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Return the norm of each row."""
    return (vectors * vectors).sum(dim=1).sqrt()
