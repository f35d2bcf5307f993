"""Colours are sRGB, whatever profile the file has."""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from isogon.images import decode

_SPEC = importlib.util.spec_from_file_location("icc", Path(__file__).with_name("icc.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
icc = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(icc)

LEVELS = np.array([[[200, 100, 50], [30, 160, 90], [255, 255, 255], [0, 0, 0], [128] * 3]])
COLOURS = Image.fromarray(LEVELS.astype(np.uint8))


def decoded(image: Image.Image, profile: bytes | None, kind: str = "PNG") -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile)
    return np.array(decode(buffer.getvalue())).astype(int)


def by_hand(primaries: object) -> np.ndarray:
    """The colours in sRGB: linear light, from one set of primaries to the other."""

    def to_xyz(chromaticities: object) -> np.ndarray:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        return columns * np.linalg.solve(columns, white)

    linear = (LEVELS / 255) ** 2.2
    linear = linear @ (np.linalg.inv(to_xyz(icc.SRGB)) @ to_xyz(primaries)).T
    linear = np.clip(linear, 0, 1)
    bent = 1.055 * linear ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, linear * 12.92, bent)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
@pytest.mark.parametrize("name", ["DISPLAY_P3", "ADOBE_RGB"])
def test_wide_colours_become_srgb(name: str, kind: str) -> None:
    primaries = getattr(icc, name)
    image = COLOURS.resize((80, 16), Image.Resampling.NEAREST)
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"},
               "JPEG": {"quality": 100, "subsampling": 0}}  # fmt: skip
    buffer = io.BytesIO()
    profile = icc.rgb_profile(primaries)
    image.save(buffer, kind, icc_profile=profile, **options.get(kind, {}))
    found = np.array(decode(buffer.getvalue())).astype(float)[8, 8::16]
    assert np.abs(found - by_hand(primaries)[0]).max() < (
        2 if kind in ("PNG", "TIFF") else 6
    )
    assert np.abs(found - LEVELS[0]).max() > 10


def test_srgb_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decoded(COLOURS, profile), LEVELS)


def test_alpha_palettes_and_grey_are_corrected_too() -> None:
    profile = icc.rgb_profile(icc.DISPLAY_P3)
    expected = decoded(COLOURS, profile)
    see_through = COLOURS.convert("RGBA")
    assert np.array_equal(decoded(see_through, profile), expected)
    assert np.array_equal(decoded(COLOURS.quantize(5), profile), expected)
    see_through.putalpha(0)
    assert (decoded(see_through, profile) == 255).all()
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    linear = decoded(grey, icc.grey_profile(1.0))[0, :, 0]
    expected_grey = np.arange(256) / 255
    expected_grey = 255 * (1.055 * expected_grey ** (1 / 2.4) - 0.055)
    assert np.abs(linear - expected_grey)[10:].max() < 2  # littleCMS rounds the darkest


def test_lab_becomes_srgb() -> None:
    lab = Image.new("LAB", (4, 4), (140, 128, 128))  # a grey
    buffer = io.BytesIO()
    lab.save(buffer, "TIFF")
    assert np.ptp(np.array(decode(buffer.getvalue()))[0, 0].astype(int)) <= 1


@pytest.mark.parametrize(
    "profile",
    [
        b"nothing",
        bytes(500),
        icc.rgb_profile(icc.DISPLAY_P3)[:200],
        icc.rgb_profile(icc.DISPLAY_P3)[:132] + b"\xff" * 300,
        icc.grey_profile(1.0),  # of another kind of colours
    ],
)
def test_a_profile_that_does_not_do_is_ignored(profile: bytes) -> None:
    assert np.array_equal(decoded(COLOURS, profile), LEVELS)
