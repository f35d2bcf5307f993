import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin

from isogon.errors import ImageError, ImageProblem
from isogon.images import FORMATS, HEAD, decode, image_format

SMOOTH = Image.fromarray(
    np.linspace(0, 255, 6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)
).resize((64, 48), Image.Resampling.BICUBIC)

# Pillow's name of what writes each format.
WRITERS = {
    "JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "HEIC": "HEIF", "AVIF": "AVIF",
    "TIFF": "TIFF", "GIF": "GIF", "BMP": "BMP", "JPEG 2000": "JPEG2000", "PPM": "PPM",
}  # fmt: skip


def written(name: str, image: Image.Image = SMOOTH, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, WRITERS[name], **options)
    return buffer.getvalue()


def test_every_format_of_the_table_is_tested() -> None:
    assert [each.name for each in FORMATS] == list(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_known_by_its_first_bytes_and_decoded(name: str) -> None:
    data = written(name)
    assert image_format(data[:HEAD]) == name
    found = np.array(decode(data), float)
    assert np.abs(found - np.array(SMOOTH, float)).mean() < 8  # GIF has a palette


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.97])
def test_no_format_is_decoded_in_part(name: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = written(name, Image.fromarray(noise))
    with pytest.raises(ImageError, match=r"truncated|damaged") as caught:
        decode(data[: int(len(data) * kept)])
    assert caught.value.problem == ImageProblem.UNDECODABLE


def test_a_photograph_of_tiles_is_not_decoded_in_part() -> None:
    data = written("HEIC")
    assert np.array_equal(decode(data + b"\0\0\0\x08free"), decode(data))
    with pytest.raises(ImageError, match="it ends early"):
        decode(data + b"\0\0\1\0mdat")


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_sixteen_bits_are_read_as_such(order: str) -> None:
    planes = np.moveaxis(np.asarray(SMOOTH), 2, 0).astype(f"{order}u2") * np.uint16(257)
    size, width, height = planes[0].nbytes, SMOOTH.width, SMOOTH.height
    start = 8 + 2 + 10 * 12 + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1),
            (262, 3, 1, 2), (273, 4, 3, start + 6), (277, 3, 1, 3), (278, 3, 1, height),
            (279, 4, 3, start + 18), (284, 3, 1, 2)]  # fmt: skip
    data = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, count, value in tags:
        one = f"{order}HHIHxx" if (kind, count) == (3, 1) else f"{order}HHII"
        data += struct.pack(one, tag, kind, count, value)
    places = [start + 30 + size * number for number in range(3)]
    data += bytes(4) + struct.pack(f"{order}3H3I3I", *[16] * 3, *places, *[size] * 3)
    assert np.array_equal(decode(data + planes.tobytes()), SMOOTH)


def test_a_raw_photograph_is_not_taken_for_its_preview() -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[254] = 1
    with pytest.raises(ImageError, match="raw photograph") as caught:
        decode(written("TIFF", tiffinfo=info))
    assert caught.value.problem == ImageProblem.UNSUPPORTED


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_bitmap_without_the_files_own_header_is_one(mode: str) -> None:
    image = SMOOTH.quantize(16) if mode == "P" else SMOOTH.convert(mode)
    data = written("BMP", image)
    assert image_format(data[14 : 14 + HEAD]) == "BMP"
    assert np.array_equal(decode(data[14:]), decode(data))
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode(data[14:300])


def test_a_bitmap_that_would_become_noise_is_refused() -> None:
    data = bytearray(written("BMP", SMOOTH.convert("P").quantize(16)))
    data[30] = 2
    with pytest.raises(ImageError, match="run lengths"):
        decode(bytes(data))


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"II*\0\x10\0\0\0CR\2\0", None),  # Canon's raw files begin as TIFF does
        (b"II+\0\x08\0\0\0", "TIFF"),  # BigTIFF
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0miafjpeg", None),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", None),
        (b"BM, said the text", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\xff\xd8", None),
        (b"", None),
    ],
)
def test_what_merely_resembles_a_format_is_not_taken_for_it(
    head: bytes, name: str | None
) -> None:
    assert image_format(head) == name
