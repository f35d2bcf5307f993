"""Random views of images: a view is a function of seed, image and number.

A view may have several sizes, for a teacher with a larger input than its student. Each size
is cropped from the original pixels, with the same random draws in the same order. All sizes
have the same crop box and flip, and the same changes with the same strengths and order.
`blur` has the same width relative to the image. `erase` covers the same part of it, to half
a pixel, with different noise for each size. Operations of a timm policy that are in pixels
(sharpness, and the blur of `3a`) or depend on image statistics (contrast, equalisation) are
applied to each size separately.

A plain view is the crop that evaluation and the service see. Every second plain view of an
image is mirrored, so that two in a row are never the same.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Compose, GaussianBlur, RandomApply

from distill.recipe import DataSection
from isogon.errors import UsageError
from isogon.images import Images, Preprocessing

_MEAN, _DEVIATION = 0.45, 0.225  # of natural images, about as in ImageNet

_MANY = 10_000  # images; with so many each is seen only a few times

# An image's index, and the number of one of its views.
View = tuple[int, int]


class Views(Dataset[tuple[Any, ...]]):
    """Views of images by `View`, the same at any time and in any process.

    The same `View` always gives the same pixels, if seed and settings are the same. So
    features computed from a view once belong to it later.
    """

    def __init__(
        self,
        images: Images,
        data: DataSection,
        seed: int,
        *,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Describe the views.

        Args:
            images: the images.
            data: how they are augmented.
            seed: of all random draws.
            sizes: the sizes of every view, height and width in pixels; by default only
                the size in [data].
        """
        self._images = images
        self._seed = seed
        self.sizes = tuple(dict.fromkeys(sizes or (data.size,)))
        self._plain = _plain_share(data, len(images))
        self._flip = data.flip
        self._cropped = {size: _transform(data, size) for size in self.sizes}
        self._whole = {size: _of_whole(data, size) for size in self.sizes}
        self._erase = _Erasing(data.erase, data.size) if data.erase > 0 else None
        self._changed = bool(
            data.augment or data.color_jitter or data.gray or data.blur or data.erase
        )

    def __getitem__(self, view: View) -> tuple[Any, ...]:
        """Return the view's pixels, the image's index and the view's number.

        The pixels are uint8 [h, w, 3] in the first of `sizes`. Pixels in the other sizes
        follow the number, in their order. The image is decoded once.
        """
        index, number = view
        source = np.random.SeedSequence((self._seed, number, index))
        seed = int(source.generate_state(1)[0])
        image = self._images.image(index)
        plain = self._is_plain(number)
        if plain and self._is_mirrored(index, number):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        transforms = self._whole if plain else self._cropped
        first, *others = (
            self._pixels(image, seed, transforms[size], size) for size in self.sizes
        )
        return first, index, number, *others

    def is_crop(self, index: int, number: int) -> bool:
        """Return whether a view is the plain crop as it is: not mirrored, not changed."""
        if self._changed or not self._is_plain(number):
            return False
        return not self._is_mirrored(index, number)

    def _is_plain(self, number: int) -> bool:
        """Return whether the view is plain; plain views are spread evenly by number."""
        return _is_hit(number, self._plain)

    def _is_mirrored(self, index: int, number: int) -> bool:
        """Return whether a plain view is mirrored; these lie evenly among an image's."""
        return _is_hit(index + int(number * self._plain), self._flip)

    def _pixels(
        self,
        image: Image.Image,
        seed: int,
        transform: Callable[[Image.Image], Tensor],
        size: int,
    ) -> UInt8[Tensor, "{size} {size} 3"]:
        with _seeded(seed):
            pixels = transform(image)
            if self._erase is not None:
                pixels = self._erase(pixels)
        return pixels.permute(1, 2, 0)


def _plain_share(data: DataSection, images: int) -> float:
    """Return the share of plain views; random crops help if images are seen often."""
    if data.plain == "by-size":
        return 1.0 if images >= _MANY else 0.5
    return data.plain


class _Erasing:
    """A rectangle of noise in a share of the views, drawn at one size and scaled."""

    def __init__(self, share: float, drawn_at: int) -> None:
        erasing: Any = RandomErasing  # timm leaves it untyped
        self._drawn_at = drawn_at
        self._with_noise = erasing(share, mode="pixel", device="cpu")
        self._with_zeros = erasing(share, mode="const", device="cpu")  # with the same draws

    def __call__(self, pixels: UInt8[Tensor, "3 s s"]) -> UInt8[Tensor, "3 s s"]:
        """Return the pixels, with a rectangle of noise in a share of the calls."""
        size, drawn_at = pixels.shape[1], self._drawn_at
        if size == drawn_at:
            return _with_noise(pixels, self._with_noise)
        kept = self._with_zeros(torch.ones(1, drawn_at, drawn_at))[0]
        rows, columns = (kept == 0).nonzero(as_tuple=True)
        if not len(rows):
            return pixels
        down, across = (_scaled(places, size / drawn_at) for places in (rows, columns))

        def erase(normal: Float[Tensor, "3 s s"]) -> Float[Tensor, "3 s s"]:
            normal[:, down, across] = torch.randn_like(normal[:, down, across])
            return normal

        return _with_noise(pixels, erase)


def _scaled(places: Int64[Tensor, " n"], ratio: float) -> slice:
    """Return the slice from the first to the last position, scaled to another size."""
    first, end = int(places.min()), int(places.max()) + 1
    start = round(first * ratio)
    return slice(start, max(round(end * ratio), start + 1))


def _with_noise(
    pixels: UInt8[Tensor, "3 h w"], erase: Callable[[Tensor], Tensor]
) -> UInt8[Tensor, "3 h w"]:
    """Let `erase`, which draws standard normals, draw with the variance of pixels."""
    normal = erase((pixels.float() / 255 - _MEAN) / _DEVIATION)
    noisy = (normal * _DEVIATION + _MEAN) * 255
    return noisy.round().clamp(0, 255).to(torch.uint8)


def _is_hit(place: int, share: float) -> bool:
    """Return whether a place is one of a share of all that is spread evenly over them."""
    return int((place + 1) * share) > int(place * share)


def _of_whole(data: DataSection, size: int) -> Callable[[Image.Image], Tensor]:
    """Return what makes a plain view: the crop that the service makes, then changes."""
    cropped = _transform(data, size, flip=False)
    assert isinstance(cropped, Compose)
    changes = Compose(cropped.transforms[1:])  # all but the random crop
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # nothing is normalised here
    crop = Preprocessing(height=size, width=size, crop=data.crop, mean=zero, std=one)
    return lambda image: cast(Tensor, changes(Image.fromarray(crop.pixels(image))))


def _transform(
    data: DataSection, size: int, *, flip: bool = True
) -> Callable[[Image.Image], Tensor]:
    """Return what makes a view of a random crop."""
    try:
        made = create_transform(
            (3, size, size),
            is_training=True,
            use_prefetcher=True,  # returns uint8: the models normalise
            scale=data.scale,
            hflip=data.flip if flip else 0.0,
            auto_augment=data.augment,
            color_jitter=data.color_jitter,
            color_jitter_prob=data.color_jitter_share,
            grayscale_prob=data.gray,
            gaussian_blur_prob=data.blur,
            interpolation="bicubic",
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise UsageError(
            f"timm does not accept these views: {error or type(error).__name__}. See "
            f"`augment` in [data]; `rand-m9-mstd0.5-inc1` is an example."
        ) from error
    if data.blur and size != data.size:
        _widen_blur(made, size / data.size)
    return cast(Callable[[Image.Image], Tensor], made)


def _widen_blur(made: Compose, ratio: float) -> None:
    """Scale the blur, whose width is in pixels of the student, to another size.

    Its only draw is uniform between the bounds of sigma, so the draw is scaled too.
    """
    for step in made.transforms:
        if isinstance(step, RandomApply) and isinstance(step.transforms[0], GaussianBlur):
            blur = step.transforms[0]
            kernel = 2 * round(blur.kernel_size[0] // 2 * ratio) + 1
            low, high = blur.sigma
            step.transforms = [GaussianBlur(kernel, (low * ratio, high * ratio))]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators that augmentations use, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # not those of the GPUs
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
