"""Sample images from Python packages: handwritten digits, and photographs as OOD images."""

import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from isogon.progress import Progress

# scikit-image's photographs, micrographs and textures that are part of its wheel.
_PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png",
    "clock_motion.png", "coffee.png", "coins.png", "color.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
_SCENES = ("china.jpg", "flower.jpg")  # scikit-learn's


def sample_images(folder: Path, progress: Progress) -> tuple[Path, Path]:
    """Write the familiar and the unfamiliar (OOD) images once; return both folders."""
    return familiar_images(folder, progress), unfamiliar_images(folder, progress)


def familiar_images(folder: Path, progress: Progress) -> Path:
    """Write scikit-learn's 1,797 handwritten digits of 8 x 8 pixels once, by class."""
    return _whole(folder / "familiar", _write_digits, progress)


def unfamiliar_images(folder: Path, progress: Progress) -> Path:
    """Write photographs and textures once, each whole and as its four quarters."""
    return _whole(folder / "unfamiliar", _write_photographs, progress)


def _whole(
    folder: Path, write: Callable[[Path, Progress], None], progress: Progress
) -> Path:
    """Let `write` fill a folder that appears only when it is complete; return it."""
    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial, progress)
    return partial.rename(folder)


def _write_digits(folder: Path, progress: Progress) -> None:
    digits = load_digits()
    pairs = list(zip(digits.images, digits.target, strict=True))
    for number, (image, label) in enumerate(
        progress.track(pairs, description="Writing sample images")
    ):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(exist_ok=True)
        grey = (image * 255 / 16).round().astype(np.uint8)
        Image.fromarray(grey).save(path)


def _write_photographs(folder: Path, progress: Progress) -> None:
    sources = [files("skimage") / "data" / name for name in _PHOTOGRAPHS]
    sources += [files("sklearn.datasets.images") / name for name in _SCENES]
    for source in progress.track(sources, description="Writing sample images"):
        stem = Path(source.name).stem
        with source.open("rb") as file, Image.open(file) as opened:
            image = opened.convert("RGB")
        image.save(folder / f"{stem}.jpg", quality=95)
        width, height = image.width // 2, image.height // 2
        for quarter, (left, top) in enumerate(
            [(0, 0), (width, 0), (0, height), (width, height)]
        ):
            part = image.crop((left, top, left + width, top + height))
            part.save(folder / f"{stem}_{quarter}.jpg", quality=95)
