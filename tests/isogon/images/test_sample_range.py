"""Grey images of more than 8 bits: black, white and what lies between."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from isogon.errors import ImageError, ImageProblem
from isogon.images import ImageFolder, Preprocessing, decode

TWELVE = np.linspace(0, 4095, 24 * 32).reshape(24, 32).round().astype(np.uint16)
EXPECTED = (TWELVE >> 4).astype(np.uint8)


def encoded(kind: str, samples: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **tags: float) -> bytes:
    numbers = {"least": 280, "most": 281, "smin": 340, "smax": 341, "photometric": 262}
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number = numbers[name]
        if number >= 340:
            info.tagtype[number] = 12 if isinstance(value, float) else 3
        info[number] = value
    return encoded("TIFF", samples, tiffinfo=info)


def png(samples: np.ndarray, significant: int | None = None) -> bytes:
    data = encoded("PNG", samples)
    if significant is None:
        return data
    body = b"sBIT" + bytes([significant])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def grey(data: bytes, samples: tuple[float, float] | None = None) -> np.ndarray:
    found = np.array(decode(data, samples=samples))
    assert (found == found[..., :1]).all()
    return found[..., 0]


@pytest.mark.parametrize(
    "data",
    [tiff(TWELVE, most=4095), tiff(TWELVE, most=3000), tiff(TWELVE, smax=4095),
     png(TWELVE, significant=12)],
    ids=["MaxSampleValue", "largest of the image", "SMaxSampleValue", "sBIT"],
)  # fmt: skip
def test_twelve_bits_in_sixteen_keep_their_levels_where_a_tag_says_so(data: bytes) -> None:
    assert np.array_equal(grey(data), EXPECTED)


def test_twelve_bits_that_are_stored_as_such_keep_their_levels() -> None:
    packed = bytearray()
    for first, second in TWELVE.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    entries = [(256, 3, 32), (257, 3, 24), (258, 3, 12), (259, 3, 1), (262, 3, 1),
               (273, 4, 8), (277, 3, 1), (278, 3, 24), (279, 4, len(packed))]  # fmt: skip
    table = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + struct.pack("<H2x" if kind == 3 else "<I", value)
        for tag, kind, value in entries
    )
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + bytes(packed)
    data += struct.pack("<H", len(entries)) + table + bytes(4)
    assert np.array_equal(grey(data), EXPECTED)


@pytest.mark.parametrize("data", [png(TWELVE), tiff(TWELVE), encoded("JPEG2000", TWELVE)])
def test_twelve_bits_keep_their_levels_where_the_range_is_stated(data: bytes) -> None:
    assert np.array_equal(grey(data, (0.0, 4095.0)), EXPECTED)


def test_sixteen_bits_keep_their_high_byte_where_nothing_says_otherwise() -> None:
    levels = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    for data in (png(levels), tiff(levels), encoded("PPM", levels), png(levels, 12)):
        assert np.array_equal(grey(data), levels >> 8)


@pytest.mark.parametrize("scaling", ["shifted", "repeated", "linear"])
def test_a_dark_png_that_was_scaled_up_as_the_standard_asks_stays_dark(
    scaling: str,
) -> None:
    dark = TWELVE[TWELVE < 250].reshape(1, -1)
    scaled = {
        "shifted": dark << 4,
        "repeated": dark << 4 | dark >> 8,
        "linear": np.rint(dark * (65535 / 4095)).astype(np.uint16),
    }[scaling]
    assert np.array_equal(grey(png(scaled, significant=12)), scaled >> 8)


@pytest.mark.parametrize("largest", [1, 100, 254, 1000, 4095])
def test_netpbm_keeps_its_levels_whatever_its_largest_sample(largest: int) -> None:
    samples = np.arange(6 * 9).reshape(6, 9) * largest // 53
    kind = ">u2" if largest > 255 else "u1"
    data = b"P5 9 6 %d\n" % largest + samples.astype(kind).tobytes()
    steps = samples * 256 // (largest + 1)
    assert np.array_equal(grey(data), steps)
    colours = np.stack([samples, samples // 2, samples * 0], axis=-1)
    found = decode(b"P6 9 6 %d\n" % largest + colours.astype(kind).tobytes())
    assert np.array_equal(found, colours * 256 // (largest + 1))
    with pytest.raises(ImageError, match="truncated"):
        decode(data[:-1])


def test_an_assumption_is_printed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(TWELVE))
    (tmp_path / "b.png").write_bytes(png(TWELVE, significant=12))
    images = ImageFolder.list(tmp_path)
    said = images.assumption(np.arange(2))
    assert said is not None
    assert "largest sample in 1 of them is 4,095" in said
    assert images.assumption(np.array([1])) is None
    assert images.ranging((0.0, 4095.0)).assumption(np.arange(2)) is None


def test_what_is_stated_goes_before_tags() -> None:
    assert np.array_equal(grey(tiff(TWELVE, most=65535), (0.0, 4095.0)), EXPECTED)


def test_white_may_be_zero() -> None:
    levels = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    assert np.array_equal(grey(tiff(levels, photometric=0)), 255 - (levels >> 8))


def test_byte_order_changes_nothing() -> None:
    image = Image.frombytes("I;16B", (32, 24), TWELVE.astype(">u2").tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    assert np.array_equal(grey(buffer.getvalue(), (0.0, 4095.0)), EXPECTED)


SIGNED = TWELVE.astype(np.int32) - 1024
FLOATS = (TWELVE / 4095).astype(np.float32)


@pytest.mark.parametrize("samples", [SIGNED, FLOATS])
def test_other_numbers_are_refused_where_nothing_says_their_range(
    samples: np.ndarray,
) -> None:
    data = encoded("TIFF", samples)
    with pytest.raises(
        ImageError, match=r"without their range from black .*\[data\]"
    ) as caught:
        decode(data)
    assert caught.value.problem == ImageProblem.UNSUPPORTED


def test_other_numbers_are_read_where_their_range_is_known() -> None:
    assert np.array_equal(grey(encoded("TIFF", SIGNED), (-1024.0, 3071.0)), EXPECTED)
    steps = np.minimum(FLOATS.astype(np.float64) * 256, 255).astype(np.uint8)
    assert np.array_equal(grey(tiff(FLOATS, smin=0.0, smax=1.0)), steps)
    assert np.array_equal(grey(encoded("TIFF", FLOATS), (0.0, 1.0)), steps)


def test_numbers_outside_the_range_are_its_ends_and_nan_is_black() -> None:
    odd = np.array([[-5, 0, 5, 10, 15, np.nan, np.inf, -np.inf]], np.float32)
    found = grey(encoded("TIFF", odd), (0.0, 10.0))
    assert found.tolist() == [[0, 0, 128, 255, 255, 0, 255, 0]]


def transparent(depth: int, samples: list[int], colour: int) -> bytes:
    """A grey PNG of one row whose `colour` is transparent."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        body = kind + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    bits += "0" * (-len(bits) % 8)
    row = b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(samples), 1, depth, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", colour))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_laid_on_white_at_any_depth(depth: int) -> None:
    most = 2**depth - 1
    for colour in (0, 1, most):
        samples = [0, 1, most, 0, most]
        found = grey(transparent(depth, samples, colour))[0]
        shown = [255 if s == colour else s * 255 // most for s in samples]
        assert found.tolist() == shown, colour


def test_preprocessing_keeps_a_range_and_is_written_as_before_without_one() -> None:
    plain = Preprocessing(height=8, width=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert "range" not in plain.model_dump_json()
    stated = Preprocessing(**plain.model_dump(), range=(0.0, 4095.0))
    assert Preprocessing.model_validate_json(stated.model_dump_json()) == stated
    with pytest.raises(ValueError, match="less than the second"):
        Preprocessing(**plain.model_dump(), range=(5.0, 5.0))
