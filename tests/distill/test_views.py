"""Views in several sizes have the same random crop, each cut from the original pixels."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from distill.images.loading import TrainingViews, shuffled_plan
from distill.images.views import Views
from distill.recipe import DataSection
from isogon.images import ImageFolder
from isogon.networks import preprocessing_of

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rand": {"augment": "rand-m9-mstd0.5-inc1"},
    "augmix": {"augment": "augmix-m5-w4-d2"},
    "3a": {"augment": "3a"},
    "original": {"augment": "original"},
    "v0": {"augment": "v0"},
    "colour": {"color_jitter": 0.4, "color_jitter_share": 0.8, "gray": 0.3, "blur": 0.5},
    "erase": {"erase": 0.7},
}

every_policy = pytest.mark.parametrize("policy", POLICIES)


def section(policy: str, size: int = 48) -> DataSection:
    return DataSection(images="x", size=size, scale=(0.3, 1.0), **POLICIES[policy])


@pytest.fixture(scope="module")
def images(photographs: Path) -> ImageFolder:
    return ImageFolder.list(photographs)


def smaller(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The pixels at a lower resolution, as floats."""
    moved = pixels.float().permute(2, 0, 1)[None]
    shrunk = F.interpolate(moved, size=(size, size), mode="bicubic", antialias=True)
    return shrunk[0].permute(1, 2, 0)


@every_policy
def test_the_students_pixels_are_the_same_whatever_else_is_asked_for(
    images: ImageFolder, policy: str
) -> None:
    alone = Views(images, section(policy), 3)
    among = Views(images, section(policy), 3, sizes=[48, 96, 48, 40])
    assert among.sizes == (48, 96, 40)
    for index in range(4):
        pixels, *key = alone[index, 2]
        same, *rest = among[index, 2]
        assert torch.equal(pixels, same)
        assert key == rest[:2] == [index, 2]
        assert [tuple(other.shape) for other in rest[2:]] == [(96, 96, 3), (40, 40, 3)]


@every_policy
def test_no_change_of_an_image_draws_by_its_size(images: ImageFolder, policy: str) -> None:
    views = Views(images, section(policy), 3, sizes=[48, 96])
    for seed in range(30):
        states = []
        for transform in views._cropped.values():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            transform(images.image(seed % len(images)))
            states.append(
                (
                    random.getstate(),
                    np.random.get_state()[2],
                    torch.get_rng_state().tolist(),
                )
            )
        assert states[0] == states[1]


@every_policy
def test_a_larger_view_shows_what_the_smaller_one_shows(
    images: ImageFolder, policy: str
) -> None:
    views = Views(images, section(policy), 3, sizes=[48, 96])
    other = Views(images, section(policy), 4, sizes=[48, 96])
    apart, unlike = [], []
    for index in range(len(images)):
        small, _, _, large = views[index, 0]
        apart.append((smaller(large, 48) - small.float()).abs().mean().item())
        unlike.append((other[index, 0][0].float() - small.float()).abs().mean().item())
    # Noise of its own fills a rectangle, and pixels of its own are sharpened.
    assert np.median(apart) < (12 if policy == "erase" else 5)
    assert np.mean(apart) < 0.4 * np.mean(unlike)


def test_every_size_is_cut_from_the_original_pixels(images: ImageFolder) -> None:
    data = section("plain").model_copy(update={"flip": 0.0})
    _, _, _, large = Views(images, data, 3, sizes=[48, 160])[0, 1]
    source = np.random.SeedSequence((3, 1, 0))
    image = images.image(0)
    random.seed(int(source.generate_state(1)[0]))
    top, left, height, width = RandomResizedCropAndInterpolation.get_params(
        image, data.scale, (3 / 4, 4 / 3)
    )
    box = image.crop((left, top, left + width, top + height))
    expected = np.array(box.resize((160, 160), Image.Resampling.BICUBIC))
    assert np.array_equal(large.numpy(), expected)


def rectangle(pixels: torch.Tensor, colour: int) -> tuple[float, ...] | None:
    """The box that is not of one colour, as fractions of the side."""
    rows, columns = (pixels != colour).any(2).nonzero(as_tuple=True)
    if not len(rows):
        return None
    side = pixels.shape[0]
    return tuple(
        float(place) / side
        for place in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    )


def test_the_same_part_of_every_size_is_erased(tmp_path: Path) -> None:
    Image.new("RGB", (300, 300), (90, 90, 90)).save(tmp_path / "flat.png")
    flat = ImageFolder.list(tmp_path)
    views = Views(flat, section("erase"), 0, sizes=[48, 96, 32])
    seen = 0
    for number in range(40):
        small, _, _, large, smallest = views[0, number]
        boxes = [rectangle(pixels, 90) for pixels in (small, large, smallest)]
        if boxes[0] is None:
            assert boxes == [None] * 3
            continue
        seen += 1
        for box, side in zip(boxes, (48, 96, 32), strict=True):
            assert box is not None
            assert box == pytest.approx(boxes[0], abs=1.001 / side)
    assert 20 < seen < 36


def test_a_view_is_blurred_over_the_same_share_of_the_image(images: ImageFolder) -> None:
    data = section("plain").model_copy(update={"blur": 1.0, "flip": 0.0})
    for index in range(4):
        small, _, _, large = Views(images, data, 3, sizes=[48, 144])[index, 0]
        assert (smaller(large, 48) - small.float()).abs().mean() < 2.5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_brings_each_size_with_its_views(images: ImageFolder, workers: int) -> None:
    views = Views(images, section("rand"), 3, sizes=[48, 96, 40])
    batches = TrainingViews(
        views,
        shuffled_plan(np.arange(12), batch_size=6, parts=1, repeats=2, seed=0),
        labels=None,
        workers=workers,
        repeats=2,
    )
    for (batch,) in batches.epoch(1):
        moved = batch.to(torch.device("cpu"))
        for row, view in enumerate(
            zip(batch.indices.tolist(), batch.numbers.tolist(), strict=True)
        ):
            small, _, _, large, smallest = views[view]
            assert torch.equal(moved.pixels_at(48)[row], small)
            assert torch.equal(moved.pixels_at(96)[row], large)
            assert torch.equal(moved.pixels_at(40)[row], smallest)
        with pytest.raises(KeyError):
            batch.pixels_at(64)


def test_plain_views_are_what_evaluation_sees_and_lie_evenly_among_the_others(
    images: ImageFolder,
) -> None:
    data = DataSection(images="x", size=48, scale=(0.3, 0.5), plain=0.5, crop=0.9)
    views, crops = Views(images, data, 3), preprocessing_of("test_resnet", 48, 0.9)
    for index in range(4):
        image = images.image(index)
        straight = torch.from_numpy(crops.pixels(image))
        turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored = torch.from_numpy(crops.pixels(turned))
        for number in range(8):
            pixels = views[index, number][0]
            plain, odd = number % 2 == 1, (index + number // 2) % 2 == 1
            assert torch.equal(pixels, straight) == (plain and not odd)
            assert torch.equal(pixels, mirrored) == (plain and odd)
            assert views.is_crop(index, number) == (plain and not odd)
    jittered = data.model_copy(update={"color_jitter": 0.4})
    assert not Views(images, jittered, 3).is_crop(0, 1)
