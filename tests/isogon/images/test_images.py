import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isogon.errors import ImageError, ImageProblem
from isogon.images import ImageLimits, Preprocessing, decode

RAMP = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, limits: ImageLimits | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    return caught.value


def test_rgb_survives_a_lossless_format() -> None:
    assert np.array_equal(decode(encoded(Image.fromarray(RAMP))), RAMP)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    if (kind, mode) in {("PNG", "CMYK"), ("JPEG", "P"), ("WEBP", "1"), ("WEBP", "CMYK")}:
        kind = "JPEG" if mode == "CMYK" else "PNG"  # the one that can hold this mode
    image = decode(encoded(Image.fromarray(RAMP).convert(mode), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("RGB", (8, 8), (200, 30, 40)).convert("CMYK")
    assert np.abs(np.array(decode(encoded(red, "JPEG")))[0, 0] - [200, 30, 40]).max() < 8


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (np.array(decode(encoded(half))) == 255).all()
    grey = Image.new("LA", (4, 4), (100, 255))
    assert (np.array(decode(encoded(grey))) == 100).all()
    palette = Image.new("P", (4, 4), 0)
    assert (np.array(decode(encoded(palette, transparency=0))) == 255).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "RGB"])
def test_transparency_is_laid_on_white_in_strips_as_in_one(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (201, 50, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    options = {"P": {"transparency": bytes(range(256))}, "RGB": {"transparency": (1, 2, 3)}}
    data = encoded(image, **options.get(mode, {}))
    layer = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    whole = Image.alpha_composite(white, layer).convert("RGB")
    assert np.array_equal(decode(data), whole)


def in_a_process(code: str, image: Image.Image, tmp_path: Path) -> str:
    path = tmp_path / "image.png"
    image.save(path, compress_level=1)
    code = (
        f"import resource; from isogon.images import decode; data = open({str(path)!r}, 'rb')"
        f".read()\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="counts in KiB")
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_needs_room_for_two_images(mode: str, tmp_path: Path) -> None:
    used = in_a_process(
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); decode(data); print(peak() - before)",
        Image.new(mode, (4000, 4000)),
        tmp_path,
    )
    assert int(used) / 1024 < 2.5 * 61  # MiB; four bytes a pixel


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_want_of_memory_is_no_fault_of_the_file(tmp_path: Path) -> None:
    found = in_a_process(
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**25,) * 2)\n"
        "try: decode(data)\n"
        "except Exception as error: print(type(error).__name__)",
        Image.new("RGB", (6000, 6000)),
        tmp_path,
    )
    assert found == "MemoryError"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.fromarray(RAMP)
    stored = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.transpose(Image.Transpose.ROTATE_180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.transpose(Image.Transpose.ROTATE_90),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(stored, exif=exif)), RAMP)


def test_orientation_survives_an_odd_tag_beside_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x829A] = "not a rational"  # an exposure time that cannot be written again
    stored = Image.fromarray(RAMP).transpose(Image.Transpose.ROTATE_90)
    data = encoded(stored, exif=exif.tobytes().replace(b"not a rational", b"\xff" * 14))
    assert np.array_equal(decode(data), RAMP)


def test_unreadable_exif_is_no_reason_to_refuse() -> None:
    data = encoded(Image.fromarray(RAMP), "JPEG", exif=b"Exif\0\0garbage")
    assert decode(data).size == (40, 30)


@pytest.mark.parametrize(
    ("data", "problem", "says"),
    [
        (b"", ImageProblem.UNDECODABLE, "is empty"),
        (b"nope", ImageProblem.UNDECODABLE, "starts with b'nope'"),
        (b"\x89PNG\r\n\x1a\n", ImageProblem.UNDECODABLE, "PNG"),
        (b"GIF89a", ImageProblem.UNDECODABLE, "begins as GIF"),
        (b"%PDF-1.7", ImageProblem.UNSUPPORTED, "is a PDF"),
        (b"\xff\x0a\0\0", ImageProblem.UNSUPPORTED, "is a JPEG XL"),
        (b"\0\0\0\x18ftypisom\0\0", ImageProblem.UNSUPPORTED, "is a video"),
        (b"\0\0\0\x18ftypheic\0\0", ImageProblem.UNDECODABLE, "ends early"),
    ],
)
def test_what_is_not_an_image_is_explained_by_kind(
    data: bytes, problem: ImageProblem, says: str
) -> None:
    error = refusal(data)
    assert error.problem == problem
    assert says in str(error)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_undecodable(kind: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert refusal(data[: int(len(data) * kept)]).problem == ImageProblem.UNDECODABLE


def test_random_damage_raises_nothing_but_image_errors() -> None:
    generator = np.random.default_rng(0)
    sources: list[Callable[[], bytes]] = [
        lambda kind=kind: encoded(Image.fromarray(RAMP), kind)
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
    ]
    for source in sources:
        for _ in range(150):
            data = bytearray(source())
            for position in generator.integers(0, len(data), 5):
                data[position] = generator.integers(256)
            try:
                assert decode(bytes(data)).mode == "RGB"
            except ImageError:
                continue


def test_limits_are_judged_before_decoding() -> None:
    bomb = encoded(Image.new("L", (14_000, 14_000)))  # 196 megapixels in little space
    error = refusal(bomb)
    assert error.problem == ImageProblem.TOO_LARGE
    assert "14000 x 14000" in str(error)
    assert refusal(bomb, ImageLimits(bytes=10)).problem == ImageProblem.TOO_LARGE
    just_fits = ImageLimits(bytes=10**6, pixels=1200)
    assert decode(encoded(Image.fromarray(RAMP)), just_fits).size == (40, 30)


def preprocessing(height: int, width: int, crop: float = 1.0) -> Preprocessing:
    half = (0.5, 0.5, 0.5)
    return Preprocessing(height=height, width=width, crop=crop, mean=half, std=half)


def test_the_centre_is_kept_and_the_size_is_exact() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    pixels = preprocessing(50, 50).pixels(image)
    assert pixels.shape == (50, 50, 3)
    assert (pixels[:, 2:-2] == (0, 0, 255)).all()


def test_crop_keeps_a_share_of_the_shorter_side() -> None:
    image = Image.new("RGB", (100, 100), "red")
    image.paste("blue", (25, 25, 75, 75))  # the filter sees a little beyond
    pixels = preprocessing(20, 20, crop=0.5).pixels(image)
    assert (pixels[2:-2, 2:-2] == (0, 0, 255)).all()


def test_equal_sizes_change_no_pixel() -> None:
    assert np.array_equal(preprocessing(30, 40).pixels(Image.fromarray(RAMP)), RAMP)


@pytest.mark.parametrize("target", [224, 299, 518])
def test_no_size_of_an_image_puts_the_box_outside_it(target: int) -> None:
    prepare = preprocessing(target, target)
    for side in range(1, 600, 7):
        for other in (1, 116, 195, 246, 284, 464, 512):
            for size in ((side, other), (other, side)):
                prepare.pixels(Image.new("RGB", size))
    for size in ((246, 284), (512, 464), (195, 116)):  # these once did
        assert prepare.pixels(Image.new("RGB", size)).shape == (target, target, 3)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_any_aspect_ratio_is_bounded_work(size: tuple[int, int]) -> None:
    assert preprocessing(32, 32).pixels(Image.new("RGB", size)).shape == (32, 32, 3)


def test_it_agrees_with_the_usual_resize_then_crop_up_to_rounding() -> None:
    from skimage.data import chelsea

    image = Image.fromarray(chelsea())
    resized = image.resize((334, 222), Image.Resampling.BICUBIC)
    left, top = (334 - 192) // 2, (222 - 192) // 2
    usual = np.array(resized.crop((left, top, left + 192, top + 192)), dtype=float)
    ours = preprocessing(192, 192, crop=192 / 222).pixels(image).astype(float)
    assert np.abs(usual - ours).mean() < 1.5
