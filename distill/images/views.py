"""Random views of images: a view is a function of seed, image and number."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset

from bundle import Images, UsageError
from distill.recipe import DataSection

_MEAN, _DEVIATION = 0.45, 0.225  # of natural images, about those of ImageNet

# An image's index, and which of its views is meant.
View = tuple[int, int]


class Views(Dataset[tuple[Tensor, int, int]]):
    """Views of images by `View`, replayable at any time and in any process.

    Whatever was computed from a view (a teacher's features, say) belongs to exactly the
    pixels that the same `View` gives later, as long as seed and settings are the same.
    """

    def __init__(self, images: Images, data: DataSection, seed: int) -> None:
        self._images = images
        self._seed = seed
        self._transform = _transform(data)
        self._erase: Callable[[Tensor], Tensor] | None = None
        if data.erase > 0:
            erasing: Any = RandomErasing  # timm leaves it untyped
            self._erase = erasing(data.erase, mode="pixel", device="cpu")

    def __getitem__(self, view: View) -> tuple[UInt8[Tensor, "h w 3"], int, int]:
        """Return the view's pixels, the image's index and the view's number."""
        index, number = view
        source = np.random.SeedSequence((self._seed, number, index))
        with _seeded(int(source.generate_state(1)[0])):
            pixels: Tensor = self._transform(self._images.image(index))
            if self._erase is not None:
                pixels = _with_noise(pixels, self._erase)
        return pixels.permute(1, 2, 0), index, number


def _with_noise(
    pixels: UInt8[Tensor, "3 h w"], erase: Callable[[Tensor], Tensor]
) -> UInt8[Tensor, "3 h w"]:
    """Let `erase`, which draws standard normals, draw as widely as pixels vary."""
    normal = erase((pixels.float() / 255 - _MEAN) / _DEVIATION)
    noisy = (normal * _DEVIATION + _MEAN) * 255
    return noisy.round().clamp(0, 255).to(torch.uint8)


def _transform(data: DataSection) -> Callable[[Image.Image], Tensor]:
    try:
        made: Callable[[Image.Image], Tensor] = create_transform(
            (3, data.size, data.size),
            is_training=True,
            use_prefetcher=True,  # uint8 out: normalisation belongs to the models
            scale=data.scale,
            hflip=data.flip,
            auto_augment=data.augment,
            color_jitter=data.colour_jitter,
            color_jitter_prob=data.colour_jitter_share,
            grayscale_prob=data.grey,
            gaussian_blur_prob=data.blur,
            interpolation="bicubic",
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UsageError(
            f"timm does not take these views: {error or type(error).__name__}. See "
            f"`augment` in [data]; `rand-m9-mstd0.5-inc1` is an example."
        ) from error
    return made


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that augmentations draw from, and put them back after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # and not those of the GPUs
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
