"""Pixels for the models: random views to learn from, plain crops to measure on."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import UInt8
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bundle import Images, Preprocessing
from bundle.collection import Indices
from distill.recipe import DataSection

Pixels = UInt8[Tensor, "b h w 3"]


class _Views(Dataset[Tensor]):
    """Random views; a view is a function of seed, epoch and image, and of nothing else."""

    def __init__(self, images: Images, data: DataSection, seed: int) -> None:
        self._images = images
        self._seed = seed
        self._transform = create_transform(
            (3, data.size, data.size),
            is_training=True,
            use_prefetcher=True,  # uint8 out: normalisation belongs to the models
            scale=data.scale,
            hflip=data.flip,
            auto_augment=data.augment,
            color_jitter=0.0,
            interpolation="bicubic",
        )

    def __getitem__(self, key: tuple[int, int]) -> UInt8[Tensor, "h w 3"]:
        epoch, index = key
        seed = int(np.random.SeedSequence((self._seed, epoch, index)).generate_state(1)[0])
        with _seeded(seed):
            view: Tensor = self._transform(self._images.image(index))
        return view.permute(1, 2, 0)


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


class _Crops(Dataset[Tensor]):
    """The images as every runner sees them."""

    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self._images = images
        self._preprocessing = preprocessing

    def __getitem__(self, index: int) -> UInt8[Tensor, "h w 3"]:
        return torch.from_numpy(self._preprocessing.pixels(self._images.image(index)))


class TrainingViews:
    """Batches of random views, epoch by epoch, in an order fixed by seed and epoch."""

    def __init__(
        self,
        images: Images,
        indices: Indices,
        data: DataSection,
        *,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        self._views = _Views(images, data, seed)
        self._indices = indices
        self._batch_size = min(batch_size, len(indices))
        self._workers = workers
        self._seed = seed

    def __len__(self) -> int:
        """Return the batches of one epoch; an incomplete last one is left out."""
        return len(self._indices) // self._batch_size

    def epoch(self, epoch: int) -> Iterator[Pixels]:
        """Iterate over the batches of one epoch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        keys = [(epoch, int(index)) for index in order]
        yield from DataLoader(
            self._views,
            batch_size=self._batch_size,
            sampler=keys,
            drop_last=True,
            num_workers=self._workers,
        )


def plain_crops(
    images: Images,
    indices: Indices,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    workers: int = 0,
) -> DataLoader[Tensor]:
    """Return the images' pixels as every runner sees them, in the given order."""
    return DataLoader(
        _Crops(images, preprocessing),
        batch_size=batch_size,
        sampler=[int(index) for index in indices],
        num_workers=workers,
    )
