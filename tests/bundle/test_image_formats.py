import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from bundle import decode
from bundle.images import FORMATS, HEAD, image_format

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
