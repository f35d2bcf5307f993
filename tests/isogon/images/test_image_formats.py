import base64
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


def tiff(samples: np.ndarray, order: str, **tags: int | tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of these samples, with more tags by name."""
    numbers = {"bits": 258, "compression": 259, "zero": 262, "colours": 320, "format": 339}
    height, width = samples.shape[:2]
    body = samples.tobytes()
    values = {256: width, 257: height, 273: 8, 277: 1, 278: height, 279: len(body)}
    values |= {259: 1, 262: 1} | {numbers[name]: value for name, value in tags.items()}
    place = 8 + len(body) + len(body) % 2
    heap, start = b"", place + 2 + 12 * len(values) + 4
    table = struct.pack(f"{order}H", len(values))
    for tag, value in sorted(values.items()):
        several = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(several)}H", *several)
        if len(packed) > 4:
            heap, packed = heap + packed, struct.pack(f"{order}I", start + len(heap))
        table += struct.pack(f"{order}HHI", tag, 3, len(several)) + packed.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", place)
    return head + body.ljust(place - 8, b"\0") + table + bytes(4) + heap


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("zero_is", [0, 1])
def test_deep_grey_is_read_in_any_order_whatever_0_is(order: str, zero_is: int) -> None:
    expected = np.repeat((GREY if zero_is else 255 - GREY)[..., None], 3, axis=2)
    sixteen = (GREY.astype(np.uint16) * 257).astype(f"{order}u2")
    assert np.array_equal(decode(tiff(sixteen, order, bits=16, zero=zero_is)), expected)
    twelve = GREY.astype(np.uint32) * 16 + GREY // 16
    pairs = twelve[:, ::2] << 12 | twelve[:, 1::2]
    packed = np.stack([pairs >> 16, pairs >> 8, pairs], axis=-1).astype(np.uint8)
    data = tiff(packed.reshape(16, 24), order, bits=12, zero=zero_is)
    width = data.replace(  # of pixels, not of bytes
        struct.pack(f"{order}HHIH", 256, 3, 1, 24),
        struct.pack(f"{order}HHIH", 256, 3, 1, 16),
    )
    assert np.array_equal(decode(width), expected)


@pytest.mark.parametrize("factor", [1, 257])
def test_the_colours_of_a_palette_may_have_8_bits_or_16(factor: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    written_as = tuple((colours * factor).ravel().tolist())
    data = tiff(GREY, "<", bits=8, zero=3, colours=written_as)
    assert np.array_equal(decode(data), colours.T[GREY])


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"bits": 10}, "samples are integers of 10 bits"),
        ({"bits": 64, "format": 3}, "floating-point numbers of 64 bits"),
        ({"bits": 8, "format": 2}, "signed integers of 8 bits"),
        ({"bits": 8, "compression": 50001}, "compressed by WebP"),
        ({"bits": 8, "compression": 34887}, "compressed by LERC"),
        ({"bits": 8, "compression": 50002}, "compressed by JPEG XL"),
        ({"bits": 8, "compression": 60000}, "with compression 60000"),
        ({"bits": 8, "zero": 4}, "of 1 samples of 8 bits per pixel"),
    ],
)
def test_kinds_of_tiff_that_are_not_decoded_are_named(
    tags: dict[str, int], says: str
) -> None:
    for order in "<>":
        with pytest.raises(ImageError, match=says) as caught:
            decode(tiff(GREY, order, **tags))
        assert caught.value.problem == ImageProblem.UNSUPPORTED
    with pytest.raises(ImageError, match="BigTIFF whose most significant"):
        decode(b"MM\0+\0\x08\0\0" + (16).to_bytes(8) + bytes(30))


def test_around_the_first_image_of_a_gif_is_white() -> None:
    image = SMOOTH.quantize(16)
    data = bytearray(written("GIF", image))
    data[6:10] = struct.pack("<HH", 100, 90)  # the screen
    colours = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    place = data.index(b",", colours) + 1
    data[place : place + 4] = struct.pack("<HH", 20, 30)
    expected = np.full((90, 100, 3), 255, np.uint8)
    expected[30 : 30 + 48, 20 : 20 + 64] = image.convert("RGB")
    assert np.array_equal(decode(bytes(data)), expected)


def test_around_the_first_image_of_an_animated_webp_is_white() -> None:
    first = Image.new("RGBA", (70, 50), (0, 0, 0, 0))
    first.paste(SMOOTH.resize((20, 20)), (10, 10))
    options = {"save_all": True, "append_images": [SMOOTH.resize((70, 50))]}
    data = written("WebP", first, lossless=True, background=(255, 0, 0, 255), **options)
    expected = np.full((50, 70, 3), 255, np.uint8)
    expected[10:30, 10:30] = SMOOTH.resize((20, 20))
    assert np.array_equal(decode(data), expected)
    options["append_images"] = [SMOOTH.rotate(180)]
    whole = written("WebP", SMOOTH, lossless=True, **options)
    assert np.array_equal(decode(whole), SMOOTH)


def test_a_bitmap_whose_alpha_was_never_written_is_opaque() -> None:
    pixels = np.dstack([np.asarray(SMOOTH)[::-1, :, ::-1], np.zeros((48, 64), np.uint8)])
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    head = struct.pack("<IiiHHIIiiII", 108, 64, 48, 1, 32, 3, pixels.size, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 108) + head + masks
    assert np.array_equal(decode(data + pixels.tobytes()), SMOOTH)
    pixels[0, 0, 3] = 255
    assert (np.asarray(decode(data + pixels.tobytes()))[0] == 255).all()


# 2 x 2 pixels of (65535, 0, 40000) and of (65000, 300, 40000), by OpenJPEG.
WHITE_AND_BLACK, NEARLY = (
    base64.b64decode(
        "/0//UQAvAAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAADDwEBDwEBDwEB/1IADAAAAAEBAAQEAAH"
        + rest
    )
    for rest in (
        "/XAAEQID/kAAKAAAAAAAuAAH/k8P/AAQACIWfPoMCzG/f+JBAAdeK2yjeKb/f+JAYAcq//9k=",
        "/XAAEQID/kAAKAAAAAAAzAAH/k8P/AAOACIWfPoAZH9/4kEgB14qdwsJzq/nf+JBAAcpmOGgAJEf/2Q==",
    )
)


def test_white_is_not_taken_for_black_in_deep_colours_of_jpeg_2000() -> None:
    assert decode(NEARLY).getpixel((0, 0)) == (254, 1, 156)
    with pytest.raises(ImageError, match=r"colours of 16 bits.* black and white"):
        decode(WHITE_AND_BLACK)


@pytest.mark.parametrize(
    ("head", "name"),
    [(b"P7\nWIDTH 4", "a PAM"), (b"qoif\0\0", "a QOI"), (b"DDS |\0", "a DDS"),
     (b"II\xbc\x01 \0", "a JPEG XR"), (b"\xff\xd8\xff\xf7\0\x0b", "a JPEG-LS"),
     (b"#?RADIANCE\n", "a Radiance HDR"), (b"v/1\x01\2", "an OpenEXR"),
     (b"%!PS-Adobe-3", "a PostScript"), (b"version https://git-lfs.g", "a Git LFS")],
)  # fmt: skip
def test_other_formats_are_refused_by_name(head: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"is {name}") as caught:
        decode(head + bytes(100))
    assert caught.value.problem == ImageProblem.UNSUPPORTED


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


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [(28, b"\2\0", r"pixel depth \(2\)"), (30, b"\6\0\0\0", r"compression \(6\)"),
     (30, b"\3\0\0\0", "bitfields layout"), (14, b"\x10\0\0\0", r"header type \(16\)")],
)  # fmt: skip
def test_kinds_of_bitmap_that_are_not_decoded_are_named(
    place: int, value: bytes, says: str
) -> None:
    data = bytearray(written("BMP", SMOOTH))
    data[place : place + len(value)] = value
    with pytest.raises(ImageError, match=f"a BMP whose {says} is not supported") as refused:
        decode(bytes(data))
    assert refused.value.problem == ImageProblem.UNSUPPORTED


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
