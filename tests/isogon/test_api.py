"""`import isogon`: what a notebook or another program uses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isogon
from isogon import ImageError, Model, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return isogon.load(exported, threads=1)


def test_images_of_every_kind_mean_the_same(model: Model, photographs: Path) -> None:
    path = sorted(photographs.glob("*.jpg"))[0]
    opened = Image.open(path)
    rgb = np.asarray(opened.convert("RGB"))
    found = model.embed(
        [path, str(path), path.read_bytes(), opened, rgb, Image.fromarray(rgb)],
        batch_size=4,
    )
    assert len(found) == 6
    assert found.embeddings.dtype == np.float32
    assert np.allclose(found.embeddings @ found.embeddings[0], 1, atol=1e-6)
    assert np.allclose(found.p_values, found.p_values[0])
    assert (found.is_ood == (found.p_values <= model.calibration.alpha)).all()


def test_a_bundle_and_its_file_answer_alike(
    model: Model, standalone_file: Path, photographs: Path
) -> None:
    images = sorted(photographs.glob("*.jpg"))[:3]
    alone, bundled = isogon.load(standalone_file).embed(images), model.embed(images)
    assert np.allclose(alone.embeddings, bundled.embeddings, atol=1e-5)


def test_an_opened_photograph_is_upright_and_a_turned_one_means_its_pixels(
    model: Model, photographs: Path, tmp_path: Path
) -> None:
    image = Image.open(sorted(photographs.glob("*.jpg"))[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "turned.png"
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    by_hand = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    found = model.embed([image, path, Image.open(path), by_hand])
    assert np.allclose(found.embeddings @ found.embeddings[0], 1, atol=1e-6)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr", "HSV", "LAB"]
)
def test_pillows_modes_are_taken(model: Model, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise.astype(np.uint16) * 257)
    else:
        rgb = Image.fromarray(noise).convert("RGB")
        image = Image.new(mode, rgb.size) if mode == "LAB" else rgb.convert(mode)
    assert len(model.embed([image])) == 1


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (
            np.zeros((8, 8, 3), np.float32),
            r"images\[0\] is an array of float32, \[8, 8, 3\]",
        ),
        (np.zeros((3, 8, 8), np.uint8), r"expected uint8, \[h, w\]"),
        ("absent.jpg", "absent.jpg cannot be read"),
    ],
)
def test_what_is_no_image_is_told_by_its_place(
    model: Model, image: object, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        model.embed([image])  # type: ignore[list-item]


def test_one_image_bytes_of_none_and_nothing_are_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="Put it in a list"):
        model.embed("a.jpg")
    with pytest.raises(UsageError, match="at least one image"):
        model.embed([])
    with pytest.raises(ImageError, match=r"images\[0\] is not an image"):
        model.embed([b"no image, but some bytes"])
    with pytest.raises(UsageError, match="found nothing"):
        isogon.load("absent.isogon")


def test_loading_and_embedding_need_no_torch(standalone_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, timm=None, bentoml=None)\n"
        "import numpy, isogon\n"
        f"model = isogon.load({str(standalone_file)!r})\n"
        "print(len(model.embed([numpy.zeros((9, 9, 3), numpy.uint8)])))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.strip() == "1", found.stderr


def test_importing_is_instant_and_lists_what_there_is() -> None:
    program = "import sys, isogon; print(sorted({'numpy', 'rich'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    for name in isogon.__all__:
        assert getattr(isogon, name).__doc__, name
    assert set(isogon.__all__) <= set(dir(isogon))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isogon.nothing  # noqa: B018


@pytest.mark.slow
def test_the_whole_chain_from_python(
    digits: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = isogon.distill(
        ROOT / "recipes" / "smallest.toml",
        images=digits,
        unfamiliar={"photographs": photographs},
        epochs=1,
        settings={"train.batch_size": 64},
        output="mine.isogon",
    )
    assert isogon.export(bundle)
    assert isogon.verify(bundle)
    assert isogon.evaluation("mine.isogon").test_images == 36
    (figure, *_) = isogon.compare(bundle, "mine.isogon").figures
    assert set(figure.values) == {str(bundle.path), "mine.isogon"}
    summary = isogon.embed(bundle, photographs, "out.parquet", workers=1)
    assert summary.images == len(
        isogon.load(bundle.path).embed(sorted(photographs.iterdir()))
    )
