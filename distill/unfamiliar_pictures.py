"""Choose the built-in pictures that are out-of-distribution (OOD) for a user's images.

A picture of a flower cannot test a detector that was trained on flowers. The teacher
decides, before there is a student. Each picture has a cosine to its nearest training
image. If it is higher than for the lowest quarter of the training images themselves, the
picture is in-distribution and is left out. (Measured with EfficientNet-Lite2: for
CIFAR-10's cats and dogs these are the five pictures of a cat.)
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from distill.images.data import prepare_data
from distill.recipe import Recipe
from distill.targets import teacher_from_recipe
from isogon.images import ImageFolder
from isogon.images.collection import spread
from isogon.ood.knn import directions
from isogon.progress import Progress, Silent, say

_QUANTILE = 0.25  # of the training images' cosines to their nearest
_QUERIES = 1000  # training images for that quantile, at most
_SHOWN = 12  # names in a message


def unfamiliar_pictures(recipe: Recipe, pictures: Path, progress: Progress) -> Path:
    """Return a list file of the pictures that are unfamiliar to the recipe's teacher.

    The file is beside their folder, and is made once for these images and this teacher. The
    pictures that are left out are printed. If none or all would be left out, the folder
    itself is returned. The teacher's features of the images are stored, for the run.

    Args:
        recipe: the images and the teacher.
        pictures: a folder of pictures that are OOD for most images.
        progress: where to show progress.
    """
    asked = recipe.model_dump_json(include={"data", "teacher"})
    key = hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    kept = pictures.with_name(f"{pictures.name}-{key}.txt")
    if kept.exists():
        return kept
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet = Silent()
    data = prepare_data(recipe, quiet)  # the run prints what cannot be read
    folder = ImageFolder.list(pictures)
    everything = np.arange(len(folder))
    teacher = teacher_from_recipe(recipe, data.imitated)
    pooled = teacher.pooled(data.fitted, device, progress)
    bank = pooled[~np.isin(data.fitted, data.synthetic)]
    found = teacher_from_recipe(recipe, folder).pooled(everything, device, quiet)
    familiar = _nearer_than_usual(found, bank)
    names = [name for name, left in zip(folder.names, familiar, strict=True) if left]
    if not names or len(names) == len(folder):
        return pictures
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    say(
        progress,
        f"{len(names)} of the {len(folder)} built-in unfamiliar pictures are left out, "
        f"because the teacher finds them familiar: {shown}.",
    )
    lines = "".join(
        f"{pictures.name}/{name}\n"
        for name, left in zip(folder.names, familiar, strict=True)
        if not left
    )
    pending = kept.with_name(f".{kept.name}.pending")
    pending.write_text(lines, encoding="utf-8")
    return pending.replace(kept)


def _nearer_than_usual(
    asked: Float[np.ndarray, "n d"], bank: Float[np.ndarray, "m d"]
) -> np.ndarray:
    """Return for each vector whether its nearest of the bank is nearer than usual.

    Three quarters of the bank have at least the usual cosine to their nearest other one.
    """
    ours, theirs = (directions(one.astype(np.float32)) for one in (bank, asked))
    places = spread(len(ours), _QUERIES)
    among = ours[places] @ ours.T
    among[np.arange(len(places)), places] = -np.inf
    usual = np.quantile(among.max(axis=1), _QUANTILE)
    nearer: np.ndarray = (theirs @ ours.T).max(axis=1) > usual
    return nearer
