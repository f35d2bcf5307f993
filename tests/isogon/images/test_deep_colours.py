"""Colours of 16 bits: those of 12 bits, and one exact colour that is transparent."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isogon.images import decode
from isogon.images.cost import DecodingCost

_SPEC = importlib.util.spec_from_file_location(
    "sixteen_bits", Path(__file__).with_name("sixteen_bits.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
sixteen_bits = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sixteen_bits)
png, tiff = sixteen_bits.png, sixteen_bits.tiff

SIZE = (40, 30)
COLOURS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
)
TWELVE = COLOURS.astype(np.uint16) * 16 + 5


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [False, True])
def test_colours_of_twelve_bits_keep_their_levels(order: str, planes: bool) -> None:
    told = tiff(TWELVE, most=4095, order=order, planes=planes)
    assert np.array_equal(np.asarray(decode(told)), COLOURS)
    untold = tiff(TWELVE, most=None, order=order, planes=planes)
    assert np.array_equal(np.asarray(decode(untold, samples=(0.0, 4095.0))), COLOURS)
    assert np.asarray(decode(untold)).max() == 15
    alpha = np.full((*TWELVE.shape[:2], 1), 65535, np.uint16)
    with_alpha = tiff(np.dstack([TWELVE, alpha]), most=4095, order=order, planes=False)
    assert np.array_equal(np.asarray(decode(with_alpha)), COLOURS)


def test_a_png_of_twelve_bits_says_so_by_its_significant_bits() -> None:
    told = png(TWELVE, sBIT=b"\x0c\x0c\x0c")
    assert np.array_equal(np.asarray(decode(told)), COLOURS)
    scaled = png(COLOURS.astype(np.uint16) * 257, sBIT=b"\x0c\x0c\x0c")
    assert np.array_equal(np.asarray(decode(scaled)), COLOURS)


@pytest.mark.parametrize("samples", [None, (0.0, 4095.0)])
def test_a_transparent_colour_is_compared_in_all_its_bits(
    samples: tuple[float, float] | None,
) -> None:
    colours = TWELVE if samples else COLOURS.astype(np.uint16) * 257
    clear = [int(value) for value in colours[3, 3]]
    data = png(colours, tRNS=struct.pack(">HHH", *clear))
    expected = np.where((colours == clear).all(-1)[..., None], 255, COLOURS)
    assert np.array_equal(np.asarray(decode(data, samples=samples)), expected)
    near = png(colours, tRNS=struct.pack(">HHH", clear[0] ^ 1, *clear[1:]))
    assert np.array_equal(np.asarray(decode(near, samples=samples)), COLOURS)


def test_the_cost_of_both_bytes_is_told_before_decoding() -> None:
    told: list[DecodingCost] = []
    decode(tiff(TWELVE, most=4095, order="<", planes=False), admit=told.append)
    decode(tiff(TWELVE, most=None, order="<", planes=False), admit=told.append)
    assert told[0].bytes > 2 * told[1].bytes
