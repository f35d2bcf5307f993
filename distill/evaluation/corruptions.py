"""Robustness: accuracy under the fifteen common corruptions of ImageNet-C.

Hendrycks and Dietterich, arXiv:1903.12261, with the package `imagecorruptions`. As in
ImageNet-C images are corrupted after resizing and cropping, so the corruption acts on the
pixels that the model sees. A teacher with another input size gets its own corrupted pixels.
The strengths were chosen for 224 pixels; on smaller images blur and frost are stronger.
We report accuracy, not error relative to AlexNet's.
"""

import hashlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.embedding import Embed, distinct_crops, embed_batches
from distill.evaluation.accuracy import knn_right, why_no_accuracy
from distill.images.data import Data
from distill.images.loading import crops_of_each, readers_watched
from isogon.bundle.evaluation import Corruptions
from isogon.errors import UsageError, option
from isogon.images import Preprocessing
from isogon.images.collection import Indices
from isogon.progress import Progress

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise",
    "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SMALLEST_SIDE = 32  # pixels; the package takes no smaller images
_BATCH = 64
# These have their own random generators; the others use NumPy's global one.
_TAKE_A_SEED = ("impulse_noise", "glass_blur")


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptionChoice:
    """How much is measured under corruptions."""

    images: int = 500  # at most; drawn from the test images
    severities: tuple[int, ...] = (3,)  # of 1 to 5
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptedEmbeddings:
    """One model's unit-norm embeddings of corrupted test images."""

    test: Indices  # places among the test images
    severities: tuple[int, ...]
    vectors: Float32[np.ndarray, "corruptions severities n d"]  # as in CORRUPTIONS


@readers_watched()
def embed_corrupted(
    models: Sequence[Embed],
    data: Data,
    preprocessing: Preprocessing,
    choice: CorruptionChoice,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
) -> list[CorruptedEmbeddings]:
    """Return each model's embeddings of the same corrupted test images.

    Raises:
        UsageError: the images are too small; see `why_not`.
    """
    reason = why_not(data, preprocessing, models)
    if reason is not None:
        raise UsageError(
            f"{reason[0].upper()}{reason[1:]}. Use {option('corruptions', False)}."
        )
    test = data.split.test
    drawn = np.random.default_rng(choice.seed).permutation(len(test))[: choice.images]
    places = np.sort(drawn)
    crops = distinct_crops(models, preprocessing)
    read = crops_of_each(data.held_out, test[places], crops, workers=workers)
    tracked = progress.track(read, description="Reading test images")
    by_crop = zip(*([each.numpy() for each in batch] for batch in tracked), strict=True)
    pixels = [np.concatenate(parts) for parts in by_crop]
    names = [data.held_out.names[index] for index in test[places]]
    batches = DataLoader(
        _Corrupted(pixels, names, choice.severities),
        batch_size=_BATCH,
        num_workers=workers,
    )
    found = embed_batches(models, crops, batches, progress, "Embedding corruptions", device)
    shape = (len(CORRUPTIONS), len(choice.severities), len(places))
    return [
        CorruptedEmbeddings(
            test=places,
            severities=choice.severities,
            vectors=vectors.reshape(*shape, vectors.shape[1]),
        )
        for vectors in found
    ]


def corruption_figures(
    bank: Float32[np.ndarray, "bank d"],
    bank_labels: Indices,
    clean: Float32[np.ndarray, "test d"],
    test_labels: Indices,
    embedded: CorruptedEmbeddings,
) -> Corruptions:
    """Return the kNN accuracy of corrupted images against the clean bank.

    Args:
        bank: clean embeddings.
        bank_labels: their classes.
        clean: embeddings of all test images.
        test_labels: their classes.
        embedded: of some test images, corrupted.
    """
    labels = test_labels[embedded.test]

    def accuracy(queries: Float32[np.ndarray, "n d"]) -> float:
        return float(knn_right(bank, bank_labels, queries, labels).mean())

    return Corruptions(
        images=len(labels),
        severities=embedded.severities,
        clean_accuracy=accuracy(clean[embedded.test]),
        accuracy={
            name: float(np.mean([accuracy(queries) for queries in by_severity]))
            for name, by_severity in zip(CORRUPTIONS, embedded.vectors, strict=True)
        },
    )


def why_not(
    data: Data, preprocessing: Preprocessing, models: Sequence[Embed] = ()
) -> str | None:
    """Return why accuracy under corruptions cannot be measured, or None."""
    crops = distinct_crops(models, preprocessing)
    side = min(min(crop.height, crop.width) for crop in crops)
    if not data.familiar.classes:
        return "accuracy under corruptions needs classes, and the images have none"
    if side < SMALLEST_SIDE:
        return f"the corruptions need {SMALLEST_SIDE} pixels or more, the model has {side}"
    if why_no_accuracy(data) is not None:
        return "accuracy cannot be measured"
    return None


def corrupted(
    pixels: UInt8[np.ndarray, "h w 3"], corruption: str, *, severity: int, seed: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels corrupted; a function of its arguments alone.

    Measured per image, all fifteen: 10 ms at 32 pixels, 20 ms at 96, 110 ms at 224.
    """
    from imagecorruptions import corrupt

    options = {"seed": seed} if corruption in _TAKE_A_SEED else {}
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with redirect_stdout(None):  # the package prints when it rounds a size
            found = np.array(corrupt(pixels, severity, corruption, **options))
    finally:
        np.random.set_state(state)
    return found


class _Corrupted(Dataset[list[Tensor]]):
    """All images for each severity of each corruption, in that order.

    Each item is one image in all of its sizes.
    """

    def __init__(
        self,
        pixels: Sequence[UInt8[np.ndarray, "n _ _ 3"]],
        names: Sequence[str],
        severities: tuple[int, ...],
    ) -> None:
        self._pixels = pixels
        self._names = names
        self._severities = severities
        self._shape = (len(CORRUPTIONS), len(severities), len(names))

    def __len__(self) -> int:
        return int(np.prod(self._shape))

    def __getitem__(self, place: int) -> list[UInt8[Tensor, "_ _ 3"]]:
        kind, strength, image = map(int, np.unravel_index(place, self._shape))
        corruption, severity = CORRUPTIONS[kind], self._severities[strength]
        key = f"{self._names[image]} {corruption} {severity}"
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=4)
        seed = int.from_bytes(digest.digest())
        return [
            torch.from_numpy(
                corrupted(each[image], corruption, severity=severity, seed=seed)
            )
            for each in self._pixels
        ]
