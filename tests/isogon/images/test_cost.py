"""The estimated memory of decoding, and files that would take far more than they show."""

import io
import struct
import zlib

import pytest
from PIL import Image

from isogon.errors import ImageError, ImageProblem
from isogon.images import DecodingCost, ImageLimits, decode


def encoded(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, kind, **options)
    return file.getvalue()


def run_lengths(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 8 bits in run lengths."""
    start = 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    file = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return file + head + bytes(1024) + runs


def tiled(tile: int) -> bytes:
    """A TIFF of 16 x 16 grey pixels in one tile that is much larger than the image."""
    data = zlib.compress(bytes(tile * tile))
    data += bytes(len(data) % 2)
    entries = [
        (256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, n) for tag, kind, n in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(entries)) + table + bytes(4)


def test_what_hears_of_the_cost_may_refuse_before_anything_is_decoded() -> None:
    told: list[DecodingCost] = []
    decode(encoded("JPEG"), admit=told.append)
    decode(encoded("JPEG", progressive=True), admit=told.append)
    assert told[0].bytes == 9 * 64 * 48
    assert told[0].work == 64 * 48
    assert told[1].bytes > told[0].bytes
    assert told[1].work == 10 * 64 * 48

    def refuse(_: DecodingCost) -> None:
        raise KeyError("not now")

    with pytest.raises(KeyError, match="not now"):
        decode(encoded("PNG")[:-30], admit=refuse)


@pytest.mark.parametrize(
    "data",
    [
        run_lengths(8_000_000, 1, b"\0\2\0\xff"),  # a step of 255 rows: two gigabytes
        run_lengths(8_000_000, 2, b"\1\1\0\0" * 2),
        tiled(6000),
    ],
)
def test_pieces_far_larger_than_the_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="in pieces of") as caught:
        decode(data)
    assert caught.value.problem == ImageProblem.TOO_LARGE
    assert len(data) < 40_000


def test_pieces_that_fit_are_decoded() -> None:
    assert decode(tiled(256)).size == (16, 16)
    assert decode(run_lengths(4, 1, b"\4\1\0\1")).size == (4, 1)


def test_a_usual_number_of_passes_is_no_reason_to_refuse_the_largest_image() -> None:
    data = encoded("JPEG", progressive=True)
    assert decode(data, ImageLimits(pixels=64 * 48)).size == (64, 48)
