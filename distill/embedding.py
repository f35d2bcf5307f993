"""Embeddings of the images of every role, by several models, each image read once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from rich.progress import Progress
from torch import Tensor

from bundle import Images, Preprocessing
from bundle.collection import Indices
from bundle.detectors.knn import directions
from distill.images.data import Data
from distill.images.loading import plain_crops
from distill.targets import Teacher

Embed = Callable[[Tensor], Float[Tensor, "b d"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """One model's unit-norm embeddings by role."""

    bank: Float32[np.ndarray, "n d"]
    test: Float32[np.ndarray, "m d"]
    unfamiliar: dict[str, Float32[np.ndarray, "_ d"]]  # by the set's name
    calibration: Float32[np.ndarray, "c d"] | None = None


def embed_both(
    teacher: Teacher | None,
    student: Embed,
    data: Data,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
) -> tuple[Embedded | None, Embedded]:
    """Return the teacher's and the student's embeddings of the images of every role.

    Of a teacher that is only known by its embeddings there are those of the familiar
    images; where the images to test on come from elsewhere there are none at all, which
    is said.
    """
    models = [student]
    embed = None if teacher is None else teacher.embed
    if embed is not None:
        models.append(embed)
    ours, *theirs = embed_roles(
        models, data, preprocessing, progress, device=device, workers=workers
    )
    if teacher is None or theirs:
        return (theirs[0] if theirs else None), ours
    if data.held_out is not data.familiar:
        progress.console.print(
            "The teacher's embeddings do not cover the test images, so nothing is "
            "compared with it.",
            markup=False,
            soft_wrap=True,
        )
        return None, ours

    def known(indices: Indices) -> Float32[np.ndarray, "_ d"]:
        return directions(teacher.pooled(indices, device, progress).astype(np.float32))

    bank, test = known(data.bank), known(data.split.test)
    return Embedded(bank=bank, test=test, unfamiliar={}), ours


def embed_roles(
    models: Sequence[Embed],
    data: Data,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
) -> list[Embedded]:
    """Return each model's embeddings of the images of every role.

    The models are on `device`; the pixels, those of deployment, are brought there.
    """

    def embeddings(
        images: Images, indices: Indices, role: str
    ) -> list[Float32[np.ndarray, "n _"]]:
        crops = plain_crops(images, indices, preprocessing, workers=workers)
        return embed_batches(models, crops, progress, f"Embedding the {role}", device)

    bank = embeddings(data.familiar, data.bank, "bank")
    test = embeddings(data.held_out, data.split.test, "test images")
    calibration = embeddings(data.held_out, data.split.calibration, "calibration images")
    unfamiliar = {
        name: embeddings(each.images, each.flaggable, f"unfamiliar {name}")
        for name, each in data.unfamiliar.items()
    }
    return [
        Embedded(
            bank=bank[i],
            test=test[i],
            unfamiliar={name: found[i] for name, found in unfamiliar.items()},
            calibration=calibration[i],
        )
        for i in range(len(models))
    ]


def embed_batches(
    models: Sequence[Embed],
    batches: Iterable[Tensor],
    progress: Progress,
    description: str,
    device: torch.device,
) -> list[Float32[np.ndarray, "n _"]]:
    """Return each model's unit-norm embeddings of batches of uint8 [b, h, w, 3]."""
    found: list[list[np.ndarray]] = [[] for _ in models]
    with torch.inference_mode():
        for pixels in progress.track(batches, description=description):
            for vectors, model in zip(found, models, strict=True):
                embedded = F.normalize(model(pixels.to(device)).float(), dim=1)
                vectors.append(embedded.cpu().numpy())
    return [np.concatenate(vectors) for vectors in found]
