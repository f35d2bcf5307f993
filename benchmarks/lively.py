"""Synthetic weights that are as hard to round as trained ones.

A newly initialised network is easy to convert: its norms multiply by one and add nothing,
LayerScale and position embeddings are almost zero, attention is uniform, and in many
families all images get the same embedding, to four digits. It lacks what causes errors in
practice: ranges that differ between channels, outlier channels, statistics folded into
convolutions, sums that cancel.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isogon.networks import Student
from isogon.runtimes import Pixels

OUTLIER_SHARE = 0.01  # of a norm's channels, at least one


def lively(student: Student, pixels: Pixels, seed: int) -> Student:
    """Give `student` random weights with the properties of trained ones; return it.

    * Linear layers and convolutions: normal, of standard deviation 1 / sqrt(fan-in)
      times a factor per output channel (log-normal, 0.25), so that activations keep
      their size, attention is not uniform and channels differ in range; biases of order
      0.1. Depthwise kernels are positive: they smooth, like many trained ones, and the
      differences of images survive the pooling.
    * Norms: gains log-normal around one (0.3); one channel in a hundred, at least one,
      has a larger gain, 8 times in layer and RMS norms (compare the massive activations
      of arXiv:2402.17762) and 3 times in batch norms. Offsets of order 0.2, in batch
      norms 1.5 ± 0.5, so that ReLUs pass most values.
    * LayerScale: uniform in 0.1 to 1, like trained ones, not 1e-5.
    * Class, register and position embeddings of order 0.3; relative position biases of
      order 0.5. Other parameters (temperatures of attention) stay.
    * Batch norm: running statistics of `pixels`, layer by layer, then moved by 5 %, so
      that they are neither 0 and 1 nor those of a batch.

    The figures for batch norm were chosen by int8. With offsets around 0 and signed
    depthwise kernels a deep random network amplifies every rounding error: unrepaired int8
    of tf_efficientnet_lite0 had a mean cosine of 0.42. With these figures it has 0.99, and
    with trained weights 0.996. So lively weights are still harder than trained ones.

    The embedding layer subtracts the mean feature of `pixels`: a random network gives all
    images a common direction, which would raise every cosine.

    Args:
        student: in any state; changed in place and left in evaluation mode.
        pixels: images of the student's size, some dozens.
        seed: of the random weights.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in student.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.copy_(_value(module, name, parameter, generator))
        _settle_batch_norms(student, pixels, generator)
    return centred(student, pixels)


def centred(student: Student, pixels: Pixels) -> Student:
    """Set the embedding layer's bias, if any, so that the mean over `pixels` is 0."""
    student.eval()
    if student.embedding is not None:
        with torch.no_grad():
            mean = student.backbone(torch.from_numpy(pixels)).pooled.mean(dim=0)
            student.embedding.bias.copy_(-student.embedding.weight @ mean)
    return student


def _value(
    module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator
) -> Tensor:
    def normal(scale: float, mean: float = 0.0) -> Tensor:
        return torch.randn(parameter.shape, generator=generator) * scale + mean

    if isinstance(module, nn.Linear | nn.Conv2d):
        if name == "bias":
            return normal(0.1)
        own = torch.randn(len(parameter), generator=generator).mul(0.25).exp()
        own = own.view(-1, *[1] * (parameter.ndim - 1))
        found = normal(parameter[0].numel() ** -0.5) * own
        return found.abs() if getattr(module, "groups", 1) > 1 else found
    if "gamma" in name:  # LayerScale, by whatever name
        return torch.rand(parameter.shape, generator=generator) * 0.9 + 0.1
    in_batch_norm = isinstance(module, _BatchNorm)
    if name == "weight" and parameter.ndim == 1:  # a norm's gain
        gains = normal(0.3).exp()
        count = max(1, round(OUTLIER_SHARE * len(gains)))
        chosen = torch.randperm(len(gains), generator=generator)[:count]
        gains[chosen] *= 3 if in_batch_norm else 8
        return gains
    if name == "bias":  # a norm's offset
        return normal(0.5, mean=1.5) if in_batch_norm else normal(0.2)
    if name.endswith(("_token", "pos_embed")):
        return normal(0.3)
    if name in ("relative_position_bias_table", "attention_biases"):
        return normal(0.5)
    if name.endswith("_bias"):  # of queries and values
        return normal(0.1)
    return parameter


def _settle_batch_norms(
    student: Student, pixels: Pixels, generator: torch.Generator
) -> None:
    """Set the statistics of `pixels` in one pass, then move them."""
    student.eval()
    norms = [module for module in student.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
        norm.train()
    student(torch.from_numpy(pixels))
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        norm.momentum = 0.1
        moves = torch.randn((2, norm.num_features), generator=generator) * 0.05
        norm.running_mean += moves[0] * norm.running_var.sqrt()
        norm.running_var *= moves[1].exp()
