"""Where half precision would cost accuracy: at least float32."""

import torch
from jaxtyping import Float
from torch import Tensor


def precise(features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the numbers in float32, or as they are where they have more digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
