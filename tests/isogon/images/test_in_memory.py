"""Images in memory become files with the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from isogon.errors import ImageError
from isogon.images import decode
from isogon.images.in_memory import file_of, saved, storable, without_loss

NOISE = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
RGB = Image.fromarray(NOISE)
GREY = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)


def through(image: Image.Image, **options: tuple[float, float]) -> np.ndarray:
    image = storable(image)
    return np.asarray(decode(saved(image, without_loss(image)), **options))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"]
)
def test_every_mode_keeps_its_pixels(mode: str) -> None:
    steps = {"La": ("LA", "La"), "PA": ("P", "PA"), "RGBa": ("RGBA", "RGBa")}
    image = RGB
    for step in steps.get(mode, (mode,)):
        image = image.convert(step)
    expected = image.convert("LA") if mode == "La" else image
    assert np.array_equal(through(image), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_sixteen_bits_keep_their_levels_in_any_order_of_bytes(mode: str) -> None:
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, GREY.size, np.asarray(GREY).astype(order).tobytes())
    assert np.array_equal(through(image)[..., 0], NOISE[..., 0])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_range_are_what_they_are_in_a_file(mode: str) -> None:
    image = GREY.convert("I").convert(mode)
    with pytest.raises(ImageError, match="without their range from black to white"):
        through(image)
    assert np.array_equal(through(image, samples=(0.0, 65535.0))[..., 0], NOISE[..., 0])


def test_what_is_only_opened_keeps_the_range_that_its_file_states() -> None:
    twelve = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 16)
    file = io.BytesIO()
    twelve.save(file, "TIFF", tiffinfo={281: 4095})
    assert np.array_equal(through(Image.open(file))[..., 0], NOISE[..., 0])
    white_is_zero = io.BytesIO()
    GREY.save(white_is_zero, "TIFF", tiffinfo={262: 0})
    assert np.array_equal(255 - through(Image.open(white_is_zero))[..., 0], NOISE[..., 0])
    ppm = io.BytesIO(b"P5 4 6 65535\n" + np.asarray(GREY, ">u2").tobytes())
    assert np.array_equal(through(Image.open(ppm))[..., 0], NOISE[..., 0])


def test_a_loaded_tiff_that_jpeg_has_compressed_is_not_compressed_again() -> None:
    file = io.BytesIO()
    image = RGB.convert("CMYK").resize((64, 64))
    image.save(file, "TIFF", compression="jpeg", quality=50)
    opened = Image.open(file)
    opened.load()
    assert np.array_equal(through(opened), np.asarray(decode(file.getvalue())))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP"])
def test_the_file_of_an_image_that_is_only_opened_is_taken(kind: str) -> None:
    file = io.BytesIO()
    RGB.save(file, kind)
    opened = Image.open(file)
    assert file_of(opened) == file.getvalue()
    opened.load()  # still does
    assert file_of(opened) is None
    assert file_of(RGB) is None


def test_other_images_have_no_file_that_means_the_same() -> None:
    file = io.BytesIO()
    RGB.save(file, "JPEG")
    other = io.BytesIO()
    RGB.save(other, "TGA")
    assert file_of(Image.open(other)) is None
    assert np.array_equal(through(Image.open(other)), NOISE)
    scaled = Image.open(file)
    scaled.draft("RGB", (2, 2))
    assert file_of(scaled) is None
    pages = io.BytesIO()
    RGB.save(pages, "TIFF", save_all=True, append_images=[RGB.rotate(180)])
    second = Image.open(pages)
    second.seek(1)
    assert np.array_equal(through(second), NOISE[::-1, ::-1])
    assert file_of(second) is None
