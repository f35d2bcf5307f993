"""Where half precision would cost accuracy: at least float32."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def precise(features: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the numbers in float32, or as they are where they have more digits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def cosine(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return the cosine of each pair of rows; CPU's autocast would take half precision."""
    with torch.autocast(one.device.type, enabled=False):
        return F.cosine_similarity(precise(one), precise(other), dim=1)
