"""Convert colours to sRGB by the embedded ICC profile, with littleCMS.

The intent is relative colorimetric with black-point compensation, as in browsers. A
profile that is damaged, or of another colour space than the image, is ignored. One that
changes no colour by more than two levels is treated as sRGB, and costs nothing.
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_LARGEST = 4 * 2**20  # bytes of a profile; those of printers have about 2 MB
_NOTHING = 2  # levels of 255; sRGB profiles in use differ by this much
_GREYS = ("1", "L", "LA", "I;16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """The conversion of an image's colours to sRGB; by default none."""

    transform: ImageCms.ImageCmsTransform | None = None
    curve: tuple[int, ...] | None = None  # by grey level

    def applied(self, image: Image.Image) -> Image.Image:
        """Return an RGB, RGBA or CMYK image in sRGB; it may be the same one, changed."""
        if self.curve is not None:
            kept = range(256) if image.mode == "RGBA" else ()
            return image.point([*self.curve * 3, *kept])
        if self.transform is None:
            return image
        if image.mode == "RGBA":
            alpha = image.getchannel("A")
            image = self.applied(image.convert("RGB"))
            image.putalpha(alpha)
            return image
        if image.mode != "RGB":
            return self.transform.apply(image)
        return self.transform.apply_in_place(image)


_NONE = Correction()


def correction(image: Image.Image) -> Correction:
    """Return the correction that an image's profile needs."""
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return _lab()
    if not isinstance(profile, bytes) or not 128 < len(profile) <= _LARGEST:
        return _NONE
    return _correction(profile, image.mode in _GREYS, image.mode == "CMYK")


@lru_cache(maxsize=16)
def _correction(profile: bytes, grey: bool, cmyk: bool) -> Correction:
    space = profile[16:20]  # of its colours: ICC.1, 7.2
    fitting = b"CMYK" if cmyk else b"RGB "
    if space != fitting and not (grey and space == b"GRAY"):
        return _NONE
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if space == b"GRAY":
            levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            curve = np.array(_transform(opened, "L").apply(levels))[0, :, 1]
            return Correction(curve=tuple(curve.tolist()))
        transform = _transform(opened, "CMYK" if cmyk else "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return _NONE
    return (
        _NONE
        if not cmyk and _changes_nothing(transform)
        else Correction(transform=transform)
    )


@lru_cache(maxsize=1)
def _lab() -> Correction:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return Correction(transform=_transform(lab, "LAB"))


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.ImageCmsTransform(profile, srgb, mode, "RGB", _INTENT, flags=_FLAGS)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    moved = np.array(transform.apply(Image.fromarray(grid)))
    return bool(np.abs(moved.astype(int) - grid).max() <= _NOTHING)
