"""Batches of pixels for the models: random views for training, plain crops for evaluation.

An `EpochPlan` says which images make the batches of an epoch. If a process that reads
images is killed, `readers_watched` raises an error that says what to do.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from distill.images.neighbours import neighbour_batches
from distill.images.views import View, Views
from isogon.errors import UsageError
from isogon.images import Images, Preprocessing
from isogon.images.collection import Indices
from isogon.runtimes.memory import in_bytes

_SHARED = Path("/dev/shm")
_NO_ROOM = "No space left on device", "shared memory", "Bus error"
_REMEDY = "then run the same command again: finished work is kept"
# From an epoch's number to the images of its global batches, in order.
EpochPlan = Callable[[int], list[Indices]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewBatch:
    """A batch of views of images, with what identifies them."""

    pixels: UInt8[Tensor, "b h w 3"]
    indices: Int64[Tensor, " b"]  # which image each view shows
    numbers: Int64[Tensor, " b"]  # which of the image's views it is
    labels: Int64[Tensor, " b"] | None
    # The same views in other sizes, by height and width, for teachers with that size.
    others: Mapping[int, UInt8[Tensor, "b _ _ 3"]] = field(default_factory=dict)

    def to(self, device: torch.device) -> "ViewBatch":
        """Return the batch with pixels and labels on `device`."""
        labels = self.labels
        return ViewBatch(
            pixels=self.pixels.to(device, non_blocking=True),
            indices=self.indices,
            numbers=self.numbers,
            labels=None if labels is None else labels.to(device, non_blocking=True),
            others={
                size: pixels.to(device, non_blocking=True)
                for size, pixels in self.others.items()
            },
        )

    def pixels_at(self, size: int) -> UInt8[Tensor, "b _ _ 3"]:
        """Return the views in this size, which may be the student's.

        Raises:
            KeyError: the batch has no views of this size.
        """
        return self.pixels if self.pixels.shape[1] == size else self.others[size]


class TrainingViews:
    """Batches of random views, epoch by epoch, in an order fixed by seed and epoch.

    A global batch is the batch of one optimiser step. It is cut into `parts` equal runs of
    consecutive images, one per accumulated micro-batch and process.
    """

    def __init__(
        self,
        views: Views,
        plan: EpochPlan,
        *,
        labels: Int64[np.ndarray, " images"] | None,
        workers: int,
        parts: int = 1,
        mine: tuple[int, ...] = (0,),
        repeats: int = 1,
        replayed: int | None = None,
    ) -> None:
        """Describe the views.

        Args:
            views: the images' views; the first size is the student's.
            plan: which images make the global batches of an epoch.
            labels: the class of every image, if there are classes.
            workers: processes that read images.
            parts: how many micro-batches a global batch is cut into, over all processes.
            mine: which of these parts this process takes, in order.
            repeats: how many different views of an image an epoch has.
            replayed: number of views of an image after which they repeat; None: never.
        """
        self._sampler = _BatchSampler(plan, parts, mine, repeats, replayed)
        self._labels = labels
        self._others = views.sizes[1:]
        self._loader = Loader(
            DataLoader(
                views,
                batch_sampler=self._sampler,
                num_workers=workers,
                persistent_workers=workers > 0,
                generator=torch.Generator(),  # else it draws from dropout's generator
                pin_memory=torch.cuda.is_available(),
                worker_init_fn=_leave_signals_to_the_main_process,
            )
        )
        self._micro_batches = len(mine)
        first = plan(0)
        self.batch_size = len(first[0])  # of every global batch
        self._steps = len(first)

    def __len__(self) -> int:
        """Return the optimiser steps of an epoch; an incomplete last batch is left out."""
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[ViewBatch, ...]]:
        """Yield the micro-batches of each step of an epoch, from step `start` on."""
        self._sampler.epoch, self._sampler.start = epoch, start
        micro_batches: list[ViewBatch] = []
        for pixels, indices, numbers, *others in self._loader:
            labels = None
            if self._labels is not None:
                labels = torch.from_numpy(self._labels[indices.numpy()])
            micro_batches.append(
                ViewBatch(
                    pixels=pixels,
                    indices=indices,
                    numbers=numbers,
                    labels=labels,
                    others=dict(zip(self._others, others, strict=True)),
                )
            )
            if len(micro_batches) == self._micro_batches:
                yield tuple(micro_batches)
                micro_batches = []


def shuffled_plan(
    indices: Indices, *, batch_size: int, parts: int, repeats: int, seed: int
) -> EpochPlan:
    """Return the plan of an ordinary epoch: every image once, in random order.

    With `repeats` r an epoch takes 1/r of the images, and r views of each in a row
    ("repeated augmentation", arXiv:1901.09335). With fewer images than `batch_size` all of
    them make one batch. The size of a batch is a multiple of `parts`.

    Raises:
        UsageError: there are fewer than two images for each part.
    """
    size = global_batch(len(indices), batch_size, parts)

    def plan(epoch: int) -> list[Indices]:
        order = np.random.default_rng((seed, epoch)).permutation(indices)
        order = np.repeat(order, repeats)[: len(indices)]
        steps = len(order) // size
        return np.split(order[: steps * size], steps)

    return plan


def neighbour_plan(
    training: Indices,
    neighbours: Int32[np.ndarray, "n _"],
    *,
    batch_size: int,
    seed: int,
) -> EpochPlan:
    """Return the plan of epochs whose batches are anchors and their neighbours.

    Args:
        training: the images to learn from, in the order of `neighbours`.
        neighbours: for each image, the positions of its nearest in `training`.
        batch_size: of a global batch. The recipe requires that its parts are a multiple of
            an anchor and its neighbours.
        seed: seed and epoch determine the batches.
    """

    def plan(epoch: int) -> list[Indices]:
        return [
            training[places]
            for places in neighbour_batches(neighbours, batch_size, seed, epoch)
        ]

    return plan


def global_batch(images: int, batch_size: int, parts: int) -> int:
    """Return the size of a batch in `shuffled_plan`, or raise as it does."""
    size = min(batch_size, images) // parts * parts
    if size < 2 * parts:
        raise UsageError(
            f"{images} images to learn from cannot be cut into {parts} parts with 2 or "
            f"more in each. Add images, or lower `devices` or `accumulate` in [train]."
        )
    return size


class Loader:
    """The batches of a `DataLoader`; a worker's `UsageError` keeps its message."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the batches."""
        try:
            with readers_watched():
                yield from self._loader
        except UsageError as error:
            raise UsageError(str(error).rpartition("UsageError: ")[2]) from error


def views_in_order(
    views: Views,
    indices: Indices,
    count: int,
    *,
    start: int,
    workers: int,
    left_out: Callable[[int, int], bool] | None = None,
) -> Iterator[UInt8[Tensor, "b h w 3"]]:
    """Yield `count` views of each image in turn, 64 at a time, from row `start` on.

    They have the first of the sizes of `views`. Views for which `left_out` is true, by
    image and number, are passed over.
    """
    loader = DataLoader(
        views,
        batch_size=64,
        sampler=_OrderedSampler(indices, count, start, left_out),
        num_workers=workers,
        generator=torch.Generator(),  # else it draws from the global generator
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_main_process,
    )
    for pixels, *_ in Loader(loader):
        yield pixels


def plain_crops(
    images: Images,
    indices: Indices,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 64,
    workers: int = 0,
) -> Loader:
    """Return the images' pixels as runners get them, in the given order."""
    return _in_this_order(_Crop(images, preprocessing), indices, batch_size, workers)


def crops_of_each(
    images: Images,
    indices: Indices,
    preprocessings: Sequence[Preprocessing],
    *,
    batch_size: int = 64,
    workers: int = 0,
) -> Loader:
    """Return the images' pixels after each preprocessing, in the given order.

    A batch is a list of [b, h, w, 3], one for each preprocessing.
    """
    return _in_this_order(_Crops(images, preprocessings), indices, batch_size, workers)


@contextmanager
def readers_watched() -> Iterator[None]:
    """Turn the death of a `DataLoader`'s process into an error that says what to do.

    torch raises the error of such a process anywhere in the main thread: put this around
    everything that runs while they do.

    Raises:
        UsageError: a process was killed, or had no shared memory.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        message = _reader_error(str(error))
        if message is None:
            raise
        raise UsageError(message) from error


def _leave_signals_to_the_main_process(_: int) -> None:
    """Protect a loader's worker from signals to the run's process group.

    The main process stops after its step, and needs the worker until then.
    """
    os.setsid()


class _BatchSampler(Sampler[list[View]]):
    """The views that this process loads, micro-batch by micro-batch."""

    def __init__(
        self,
        plan: EpochPlan,
        parts: int,
        mine: tuple[int, ...],
        repeats: int,
        replayed: int | None,
    ) -> None:
        self._plan = plan
        self._parts = parts
        self._mine = mine
        self._repeats = repeats
        self._replayed = replayed
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[View]]:
        seen: dict[int, int] = {}
        for step, batch in enumerate(self._plan(self.epoch)):
            views = [self._view(int(index), seen) for index in batch]
            size = len(views) // self._parts
            if step >= self.start:
                for part in self._mine:
                    yield views[part * size : (part + 1) * size]

    def _view(self, index: int, seen: dict[int, int]) -> View:
        turn = seen.get(index, 0)  # how often this epoch has shown the image already
        seen[index] = turn + 1
        number = self.epoch * self._repeats + turn % self._repeats
        return index, number if self._replayed is None else number % self._replayed


class _OrderedSampler(Sampler[View]):
    """All views of an image, then of the next one; not stored as a list: there are many."""

    def __init__(
        self,
        indices: Indices,
        count: int,
        start: int,
        left_out: Callable[[int, int], bool] | None = None,
    ) -> None:
        self._indices = indices
        self._count = count
        self._start = start
        self._left_out = left_out

    def __iter__(self) -> Iterator[View]:
        for row in range(self._start, len(self._indices) * self._count):
            view = int(self._indices[row // self._count]), row % self._count
            if self._left_out is None or not self._left_out(*view):
                yield view


class _Crops(Dataset[list[Tensor]]):
    """Images after several preprocessings; each is decoded once."""

    def __init__(self, images: Images, preprocessings: Sequence[Preprocessing]) -> None:
        self._images = images
        self._preprocessings = preprocessings

    def __getitem__(self, index: int) -> list[UInt8[Tensor, "_ _ 3"]]:
        image = self._images.image(index)
        return [torch.from_numpy(one.pixels(image)) for one in self._preprocessings]


class _Crop(Dataset[Tensor]):
    """Images after one preprocessing."""

    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self._crops = _Crops(images, [preprocessing])

    def __getitem__(self, index: int) -> UInt8[Tensor, "h w 3"]:
        return self._crops[index][0]


def _in_this_order(
    dataset: Dataset[Any], indices: Indices, batch_size: int, workers: int
) -> Loader:
    return Loader(
        DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=[int(index) for index in indices],
            num_workers=workers,
            generator=torch.Generator(),
        )
    )


def _reader_error(text: str) -> str | None:
    """Return the message for an error of `DataLoader`'s; None for any other error."""
    if "DataLoader worker" not in text and "torch_" not in text:
        return None
    if any(words in text for words in _NO_ROOM):
        return (
            f"The processes that read images ran out of shared memory: {_SHARED} has "
            f"{_shared_memory()}. Set `workers = 0` in [train], or start a container with "
            f"`--shm-size 1g`, {_REMEDY}."
        )
    killed = re.search(r"killed by signal: (\w+)|(exited unexpectedly)", text)
    if killed is None:
        return None
    how = f"was killed ({killed[1]})" if killed[1] else "ended"
    return (
        f"A process that reads images {how}. If nobody stopped it, memory has run out. "
        f"Lower `workers` in [train] (0 reads in the main process), {_REMEDY}."
    )


def _shared_memory() -> str:
    try:
        return in_bytes(shutil.disk_usage(_SHARED).total)
    except OSError:
        return "none"
