"""Embeddings of the images of every role by several models; each image is read once.

A model takes the pixels of deployment. An `Embedder` has its own crops of the same decoded
image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from distill.images.data import Data
from distill.images.loading import crops_of_each, readers_watched
from distill.targets import Embedder, Teacher
from distill.targets.finite import not_finite
from isogon.images import Images, Preprocessing
from isogon.images.collection import Indices
from isogon.networks import FeatureExtractor
from isogon.ood.knn import directions
from isogon.progress import Progress, say

# From uint8 pixels [b, h, w, 3] on the model's device to embeddings; also an `Embedder`.
Embed = Callable[..., Float[Tensor, "b d"]]
_SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleEmbeddings:
    """One model's unit-norm embeddings by role."""

    bank: Float32[np.ndarray, "n d"]
    test: Float32[np.ndarray, "m d"]
    unfamiliar: dict[str, Float32[np.ndarray, "_ d"]]  # by the set's name
    calibration: Float32[np.ndarray, "c d"] | None = None

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "RoleEmbeddings":
        """Return the vectors of each role after `function`."""
        return RoleEmbeddings(
            bank=function(self.bank),
            test=function(self.test),
            unfamiliar={name: function(each) for name, each in self.unfamiliar.items()},
            calibration=None if self.calibration is None else function(self.calibration),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AllEmbeddings:
    """The embeddings of the same images by every model."""

    teacher: RoleEmbeddings | None
    student: RoleEmbeddings
    # Of the student's network before training, not normalised.
    pooled: RoleEmbeddings | None


@readers_watched()
def embed_all(
    teacher: Teacher | None,
    student: Embed,
    before: FeatureExtractor | None,
    data: Data,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
    seen: RoleEmbeddings | None = None,
) -> AllEmbeddings:
    """Return every model's embeddings of the images of every role; each is read once.

    A teacher with given embeddings has embeddings only of familiar (in-distribution)
    images. If the recipe has a separate `test`, it has none, and a message says so.

    Args:
        teacher: the teacher, if available.
        student: embeds images with the student, on `device`.
        before: the student's network before training, if available.
        data: the images.
        preprocessing: of deployment.
        progress: shows progress.
        device: where the models are; `before` is moved there.
        workers: processes that read images.
        seen: the teacher's embeddings, if it has embedded the images already; see
            `teacher_embeddings`.

    Raises:
        UsageError: the teacher gives NaN or infinity for an image.
    """
    models = [student]
    embed = None if teacher is None or seen is not None else teacher.embed
    if embed is not None:
        models.append(embed)
    raw: list[Embed] = []
    if before is not None:
        network = before.to(device)
        raw.append(lambda pixels: network(pixels).pooled)
    found = embed_roles(
        models, data, preprocessing, progress, device=device, workers=workers, raw=raw
    )
    theirs = seen
    if teacher is not None and embed is not None:
        theirs = found[1]
        _require_numbers(teacher.card.architecture, theirs, data, progress)
    elif seen is None:
        theirs = _known(teacher, data, progress, device)
    _print_zeros("student", found[0], data, progress)
    return AllEmbeddings(
        teacher=theirs,
        student=found[0],
        pooled=None if before is None else found[-1],
    )


@readers_watched()
def teacher_embeddings(
    teacher: Teacher,
    data: Data,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
) -> RoleEmbeddings | None:
    """Return the teacher's embeddings of the images of every role; None without a network.

    Called before training, to find a teacher that fails on a test image before time is
    spent. The random numbers of the run are not changed.

    Raises:
        UsageError: the teacher gives NaN or infinity for an image.
    """
    embed = teacher.embed
    if embed is None:
        return None
    with torch.random.fork_rng(devices=[]):  # loaders draw from it
        (found,) = embed_roles(
            [embed], data, preprocessing, progress, device=device, workers=workers
        )
    _require_numbers(teacher.card.architecture, found, data, progress)
    return found


def embed_roles(
    models: Sequence[Embed],
    data: Data,
    preprocessing: Preprocessing,
    progress: Progress,
    *,
    device: torch.device,
    workers: int,
    raw: Sequence[Embed] = (),
) -> list[RoleEmbeddings]:
    """Return each model's embeddings of the images of every role.

    The models are on `device`, and their pixels are moved there. Pixels are those of
    `preprocessing`, unless a model has its own crops. The models of `raw` come last, and
    their vectors are not normalised.
    """
    crops = distinct_crops(models, preprocessing)

    def embeddings(
        images: Images, indices: Indices, role: str
    ) -> list[Float32[np.ndarray, "n _"]]:
        batches = crops_of_each(images, indices, crops, workers=workers)
        described = f"Embedding the {role}"
        return embed_batches(models, crops, batches, progress, described, device, raw=raw)

    bank = embeddings(data.familiar, data.bank, "bank")
    test = embeddings(data.held_out, data.split.test, "test images")
    calibration = embeddings(data.held_out, data.split.calibration, "calibration images")
    unfamiliar = {
        name: embeddings(each.images, each.flaggable, f"unfamiliar {name}")
        for name, each in data.unfamiliar.items()
    }
    return [
        RoleEmbeddings(
            bank=bank[i],
            test=test[i],
            unfamiliar={name: found[i] for name, found in unfamiliar.items()},
            calibration=calibration[i],
        )
        for i in range(len(models) + len(raw))
    ]


def embed_batches(
    models: Sequence[Embed],
    crops: Sequence[Preprocessing],
    batches: Iterable[Sequence[Tensor]],
    progress: Progress,
    description: str,
    device: torch.device,
    *,
    raw: Sequence[Embed] = (),
) -> list[Float32[np.ndarray, "n _"]]:
    """Return each model's unit-norm embeddings.

    Args:
        models: on `device`.
        crops: the crops of a batch, as `distinct_crops` returns them.
        batches: uint8 [b, h, w, 3] of the same images for each of `crops`.
        progress: where to show progress.
        description: of the work.
        device: where the pixels are moved.
        raw: models on the first of `crops`; their vectors come last and are not normalised.
    """
    place = {_geometry(crop): number for number, crop in enumerate(crops)}
    taken = [
        [place[_geometry(crop)] for crop in model.crops]
        if isinstance(model, Embedder)
        else [0]
        for model in models
    ]
    found: list[list[np.ndarray]] = [[] for _ in (*models, *raw)]
    with torch.inference_mode():
        for batch in progress.track(batches, description=description):
            pixels = [each.to(device) for each in batch]
            embedded = [
                F.normalize(model(*(pixels[i] for i in places)).float(), dim=1)
                for model, places in zip(models, taken, strict=True)
            ]
            embedded += [model(pixels[0]).float() for model in raw]
            for vectors, each in zip(found, embedded, strict=True):
                vectors.append(each.cpu().numpy())
    return [np.concatenate(vectors) for vectors in found]


def distinct_crops(
    models: Sequence[Embed], preprocessing: Preprocessing
) -> list[Preprocessing]:
    """Return the different crops that the models take, that of deployment first."""
    found = {_geometry(preprocessing): preprocessing}
    for model in models:
        for crop in model.crops if isinstance(model, Embedder) else ():
            found.setdefault(_geometry(crop), crop)
    return list(found.values())


def _geometry(preprocessing: Preprocessing) -> tuple[int, int, float]:
    """Return what the pixels of a crop depend on; normalisation comes later."""
    return preprocessing.height, preprocessing.width, preprocessing.crop


def _known(
    teacher: Teacher | None, data: Data, progress: Progress, device: torch.device
) -> RoleEmbeddings | None:
    """Return a teacher's given embeddings, if they cover the test images."""
    if teacher is None:
        return None
    if data.held_out is not data.familiar:
        say(
            progress,
            "The teacher's embeddings do not cover the test images, so there is no "
            "comparison with it.",
        )
        return None

    def known(indices: Indices) -> Float32[np.ndarray, "_ d"]:
        return directions(teacher.pooled(indices, device, progress).astype(np.float32))

    bank, test = known(data.bank), known(data.split.test)
    return RoleEmbeddings(bank=bank, test=test, unfamiliar={})


def _require_numbers(
    teacher: str, found: RoleEmbeddings, data: Data, progress: Progress
) -> None:
    """Refuse a teacher that gives NaN or infinity for an image; warn of zeros.

    Raises:
        UsageError: names the teacher, the first such image and how many there are.
    """
    faulty = _named(
        found, data, lambda vectors: np.logical_not(np.isfinite(vectors).all(axis=1))
    )
    if faulty:
        raise not_finite(teacher, faulty[0], "NaN or infinite values", images=len(faulty))
    _print_zeros(f"teacher {teacher}", found, data, progress)


def _print_zeros(model: str, found: RoleEmbeddings, data: Data, progress: Progress) -> None:
    """Print for which images a model gives only zeros, which have no direction."""
    empty = _named(found, data, lambda vectors: np.logical_not(vectors.any(axis=1)))
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", …" if len(empty) > _SHOWN else "")
        say(
            progress,
            f"The {model} gives only zeros for {len(empty):,} of the images, such as "
            f"{shown}: their cosine with every image is 0. If this is unexpected, check "
            f"these images and the normalisation of the model's pixels.",
        )


def _named(
    found: RoleEmbeddings, data: Data, which: Callable[[np.ndarray], np.ndarray]
) -> list[str]:
    """Return the names of the images of all roles for whose vectors `which` is true."""
    roles = [
        (found.bank, data.familiar, data.bank),
        (found.test, data.held_out, data.split.test),
        (found.calibration, data.held_out, data.split.calibration),
        *(
            (vectors, data.unfamiliar[name].images, data.unfamiliar[name].flaggable)
            for name, vectors in found.unfamiliar.items()
        ),
    ]
    return [
        images.names[indices[place]]
        for vectors, images, indices in roles
        if vectors is not None
        for place in np.flatnonzero(which(vectors))
    ]
