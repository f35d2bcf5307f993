"""Copies among the images of a run: found, kept in one part, and reported."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.progress import Progress

from distill import Recipe
from distill.images.data import Data, prepare_data
from isogon.errors import UsageError
from isogon.images.copies import pictures, thumbnail

SIZE = (96, 72)


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)


def saved_again(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def write(folder: Path, images: dict[str, Image.Image]) -> str:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return str(folder)


def in_copies(seeds: range, copies: int, suffix: str = ".png") -> dict[str, Image.Image]:
    return {f"{seed}-{n}{suffix}": picture(seed) for seed in seeds for n in range(copies)}


def prepared(recipe: Recipe, *, unfamiliar: str | None = None, **data: object) -> Data:
    document = recipe.model_dump()
    document["data"] |= data
    sets = [] if unfamiliar is None else [{"name": "others", "images": unfamiliar}]
    document |= {"unfamiliar": sets}
    document["student"] |= {"pretrained": True}  # which is validated on a few images
    return prepare_data(Recipe.model_validate(document), Progress(disable=True))


@pytest.mark.parametrize("distance", [0.08, 0.0])
def test_pictures_are_distinguished_and_copies_are_not(distance: float) -> None:
    image = picture(0)
    same = [image, saved_again(image), image.resize((48, 36)), image.resize((201, 144)),
            Image.fromarray((np.asarray(image) * 0.9).astype(np.uint8)),
            saved_again(ImageOps.mirror(image))]  # fmt: skip
    flat = [Image.new("RGB", SIZE, grey) for grey in ("white", "white", "grey")]
    others = [picture(seed) for seed in range(1, 200)]
    found = pictures(
        np.stack([thumbnail(one) for one in (*same, *flat, *others)]), distance
    )
    assert len(set(found[:6])) == (1 if distance else 6)
    assert found[6] == found[7] != found[8]
    assert len(set(found[6:])) == 2 + 199


def test_half_the_size_is_a_copy_also_of_a_small_image_in_detail() -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (64, 24, 24, 3), np.uint8)
    images = [Image.fromarray(one).resize((64, 64)) for one in fine]
    halves = [one.resize((32, 32)) for one in images]
    found = pictures(np.stack([thumbnail(one) for one in (*images, *halves)]))
    assert np.array_equal(found[:64], found[64:])
    assert len(set(found)) == 64


def test_copies_of_copies_are_joined_as_a_plain_loop_joins_them() -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(60, 200, (6, 16, 16))
    steps = rng.integers(-3, 4, (20, 6, 16, 16)) * rng.integers(0, 4, (20, 6, 1, 1))
    walks = start + np.cumsum(steps, axis=0)  # some steps are too far for a copy
    thumbnails = walks.clip(0, 255).astype(np.uint8).reshape(-1, 16, 16)
    thumbnails[::4] = thumbnails[::4, :, ::-1]
    found = pictures(thumbnails, 0.1)
    units = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    units -= units.mean(axis=1, keepdims=True)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    turned = units.reshape(-1, 16, 16)[:, :, ::-1].reshape(units.shape)
    near = np.linalg.norm(units[:, None] - units[None], axis=2) <= 0.1
    mirrored = np.linalg.norm(units[:, None] - turned[None], axis=2) <= 0.05
    assert (mirrored & ~near).any()
    near |= mirrored
    expected = np.arange(len(units))
    for _ in units:
        expected = np.array([expected[row].min() for row in near])
    assert np.array_equal(found[:, None] == found, expected[:, None] == expected)
    assert 6 < len(set(found)) < len(units)


def test_copies_play_one_role_and_one_of_those_held_out_is_used(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = in_copies(range(80), 4)
    images["79-3.png"] = saved_again(picture(79))
    folder = write(tmp_path / "images", images)
    data = prepared(recipe, images=folder)
    said = capsys.readouterr().out.replace("\n", " ")
    assert "320 of the 320 images of" in said
    assert (
        "copies of one another (of 80 different pictures), such as 0-0.png, 0-1.png" in said
    )
    training, aside = ({data.familiar.names[i].split("-")[0] for i in part}
                     for part in (data.training, data.validation))  # fmt: skip
    held_out = [
        data.familiar.names[index].split("-")[0]
        for index in (*data.split.calibration, *data.split.test)
    ]
    assert len(set(held_out)) == len(held_out) == 19 + 12
    assert not training & set(held_out)
    assert aside
    assert not aside & (training | set(held_out))
    assert len(data.split.bank) == 4 * (80 - 31)
    assert data.copies is not None
    assert (data.copies.images, data.copies.pictures) == (320, 80)
    assert data.copies.left_out == 3 * 31
    assert data.copies.examples[0] == ("0-0.png", "0-1.png")
    with pytest.raises(UsageError, match=r"120 readable images, 80 of them copies"):
        few = write(tmp_path / "few", in_copies(range(40), 3))
        prepared(recipe, images=few, test_share=0.4)


def test_without_copies_there_is_nothing_to_tell(
    recipe: Recipe, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_data(recipe, progress).copies is None
    assert "copies" not in capsys.readouterr().out


def test_a_test_of_copies_is_refused_and_a_few_are_left_out(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write(tmp_path / "images", in_copies(range(60), 1))
    copies = write(tmp_path / "copies", in_copies(range(30, 90), 1, ".jpg"))
    with pytest.raises(
        UsageError, match=r"30 of the 60 images of `test`.*use training images"
    ):
        prepared(recipe, images=images, test=copies)
    few = write(tmp_path / "few", in_copies(range(58, 118), 1, ".jpg"))
    data = prepared(recipe, images=images, test=few, calibration_of_test=0.4)
    names = {data.held_out.names[i] for i in (*data.split.calibration, *data.split.test)}
    assert names == {f"{seed}-0.jpg" for seed in range(60, 118)}
    assert len(data.split.calibration) == 23
    said = capsys.readouterr().out.replace("\n", " ")
    assert (
        "2 of the 60 images of `test` of [data] are copies of `images`, such as 58" in said
    )
    assert re.search("23 images of .* calibrate the OOD score and 35 are for testing", said)
    assert data.copies is not None
    assert data.copies.shared == {"`test` of [data]": 2}


def test_an_unfamiliar_set_of_familiar_images_is_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    images = write(tmp_path / "images", in_copies(range(60), 1))
    with pytest.raises(
        UsageError, match=r"others and `images` of \[data\] share 60 images"
    ):
        prepared(recipe, images=images, unfamiliar=images)
    copies = write(tmp_path / "copies", in_copies(range(10), 1, ".jpg"))
    with pytest.raises(UsageError, match=r"10 of the 10 .* others are copies of familiar"):
        prepared(recipe, images=images, unfamiliar=copies)
    mixed = write(tmp_path / "mixed", in_copies(range(59, 99), 1, ".jpg"))
    data = prepared(recipe, images=images, unfamiliar=mixed)
    assert len(data.unfamiliar["others"].flaggable) == 39


def test_sources_are_found_missing_before_any_image_is_read(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write(tmp_path / "images", in_copies(range(60), 1))
    # Reading would raise a TypeError.
    monkeypatch.setattr("isogon.images.folder.decoded", None)
    for missing in ("test", "unfamiliar"):
        with pytest.raises(UsageError, match=r"nowhere, found nothing"):
            prepared(recipe, images=images, **{missing: str(tmp_path / "nowhere")})
