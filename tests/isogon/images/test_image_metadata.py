"""Metadata are no reason to refuse an image, and their cost is bounded."""

import io
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image, PngImagePlugin

from isogon.errors import ImageError, ImageProblem
from isogon.images import ImageLimits, decode
from isogon.images.jpeg import structure

SMOOTH = Image.fromarray(
    np.linspace(0, 255, 6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)
).resize((160, 120), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image = SMOOTH, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scans(data: bytes) -> int:
    return structure(data).scans


def refusal(data: bytes, limits: ImageLimits | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    return caught.value


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunks(*chunks: bytes, at: int = 33) -> bytes:
    """A PNG with additional chunks, after its header or at another place."""
    data = encoded("PNG")
    return data[:at] + b"".join(chunks) + data[at:]


def repeated_scans(image: Image.Image, times: int) -> bytes:
    data = encoded("JPEG", image, progressive=True, quality=5)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * times + b"\xff\xd9"


LIKE_SCANS = b"\xff\xda" * 300


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("place", ["profile", "comment", "thumbnail", "video", "between"])
def test_what_looks_like_scans_in_metadata_is_no_scan(
    place: str, progressive: bool
) -> None:
    plain = encoded("JPEG", progressive=progressive)
    options = {"icc_profile": LIKE_SCANS} if place == "profile" else {}
    data = encoded("JPEG", progressive=progressive, **options)
    if place == "comment":
        data = data[:2] + segment(0xFE, LIKE_SCANS) + data[2:]
    elif place == "thumbnail":
        data = data[:2] + segment(0xE1, b"Exif\0\0" + LIKE_SCANS) + data[2:]
    elif place == "video":
        data += b"\0\0\0\x18ftypmp42" + LIKE_SCANS
    elif place == "between":
        last = data.rfind(b"\xff\xda")
        data = data[:last] + segment(0xFE, LIKE_SCANS) + data[last:]
    assert scans(data) == scans(plain)
    assert np.array_equal(decode(data), decode(plain))


def test_scans_are_counted_as_they_are_stored() -> None:
    assert scans(encoded("JPEG")) == 1
    assert scans(encoded("JPEG", progressive=True)) == 10  # libjpeg's script for colours
    assert scans(encoded("JPEG", SMOOTH.convert("L"), progressive=True)) == 6
    assert scans(encoded("JPEG", progressive=True, restart_marker_blocks=1)) == 10
    assert scans(repeated_scans(SMOOTH, 100)) == 110


def test_counting_scans_costs_little() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for progressive, limit in ((False, 2e-3), (True, 50e-3)):
        data = encoded("JPEG", image, quality=90, progressive=progressive)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            scans(data)
            times.append(time.perf_counter() - start)
        assert min(times) < limit


RESTARTS = {"restart_marker_blocks": 3}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, RESTARTS], ids=range(3))
def test_a_jpeg_without_its_end_is_read_only_if_no_pixel_is_missing(
    mode: str, options: dict[str, object]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 61, 3), np.uint8)
    data = encoded("JPEG", Image.fromarray(noise).convert(mode), **options)
    whole = np.asarray(decode(data))
    for tail in (b"", b"\xff", bytes(30)):
        assert np.array_equal(decode(data[:-2] + tail), whole)
        for missing in (8, 20, 100, 1000):
            assert refusal(data[:-missing] + tail).problem == ImageProblem.UNDECODABLE
    last = data.rfind(b"\xff\xda")
    assert refusal(data[:last]).problem == ImageProblem.UNDECODABLE


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_a_few_bytes_is_whole_or_refused(progressive: bool) -> None:
    """Small files of low quality, whose last scan often decodes alike with other bits."""
    read = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        image = coarse.resize((int(rng.integers(17, 90)), 40), Image.Resampling.BICUBIC)
        data = encoded("JPEG", image.convert("L"), quality=3, progressive=progressive)
        whole = np.asarray(decode(data)).astype(int)
        for missing in range(2, 12):
            try:
                found = np.asarray(decode(data[:-missing]))
            except ImageError:
                assert missing > 2
            else:
                assert np.abs(found - whole).max() <= 1
                read += 1
    assert read >= 12


def test_kinds_of_jpeg_that_are_not_decoded_are_named() -> None:
    data = encoded("JPEG")
    frame = data.find(b"\xff\xc0")
    for place, value, says in (
        (4, b"\x0c", "a JPEG of 12 bits per sample"),
        (1, b"\xf7", "a JPEG-LS"),
        (1, b"\xc5", "a hierarchical or lossless JPEG"),
        (5, b"\0\0", "whose height is not in its header"),
    ):
        at = frame + place
        error = refusal(data[:at] + value + data[at + len(value) :])
        assert error.problem == ImageProblem.UNSUPPORTED
        assert says in str(error)


def test_more_scans_than_any_camera_writes_are_refused() -> None:
    error = refusal(repeated_scans(SMOOTH, 300))
    assert error.problem == ImageProblem.TOO_LARGE
    assert "more than 200 passes" in str(error)


def test_scans_times_pixels_are_bounded() -> None:
    data = repeated_scans(SMOOTH, 50)
    assert decode(data).size == SMOOTH.size
    error = refusal(data, ImageLimits(pixels=160 * 120 * 2))
    assert error.problem == ImageProblem.TOO_LARGE
    assert "160 x 120 pixels in 60 passes" in str(error)


@pytest.mark.parametrize(("times", "fits"), [(4, True), (20, False)])
def test_scans_inside_a_tiff_are_bounded_too(times: int, fits: bool) -> None:
    strip = repeated_scans(SMOOTH, times)
    entries = [
        (256, 4, 160), (257, 4, 120), (258, 3, 8), (259, 3, 7), (262, 3, 6), (273, 4, 8),
        (277, 3, 3), (278, 4, 120), (279, 4, len(strip)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, n) for tag, kind, n in entries)
    strip += bytes(len(strip) % 2)
    data = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip
    data += struct.pack("<H", len(entries)) + table + bytes(4)
    if fits:
        assert decode(data).size == SMOOTH.size
    else:
        assert refusal(data).problem == ImageProblem.UNDECODABLE


@pytest.mark.parametrize("filler", [segment(0xFE, b""), b"\xff\x01"])
def test_millions_of_segments_are_refused_at_once(filler: bytes) -> None:
    data = encoded("JPEG")
    assert "more than 10,000 segments" in str(
        refusal(data[:2] + filler * 200_000 + data[2:])
    )


def test_random_metadata_does_not_hide_a_jpeg() -> None:
    generator = np.random.default_rng(0)
    plain = encoded("JPEG")
    for marker in [*range(0xE1, 0xEE), 0xEF, 0xFE]:
        for start in (b"", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\1", b"Photoshop 3.0\0"):
            junk = start + generator.bytes(60)
            data = plain[:2] + segment(marker, junk) + plain[2:]
            assert np.array_equal(decode(data), decode(plain)), (marker, junk)


BOMB = zlib.compress(bytes(5 * 2**20))


@pytest.mark.parametrize(
    "chunks",
    [
        (chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1_200_000))),),
        (chunk(b"iCCP", b"p\0\0" + BOMB),),
        (chunk(b"iCCP", b"p\0\7" + BOMB),),
        (chunk(b"tEXt", b"k\0" + b"t" * 2_000_000),),
        (chunk(b"zTXt", b"k\0\0" + BOMB),),
        (chunk(b"zTXt", b"k\0\1" + BOMB),),
        (chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB),),
        (chunk(b"iTXt", b"k\0\0\0\0\0" + b"t" * 5_000_000),),
        (chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20))),) * 80,
        (chunk(b"tEXt", b"k\0changed")[:-1] + b"?",),
        (chunk(b"tEXt", b"transparency\0red"), chunk(b"tEXt", b"icc_profile\0none")),
        (chunk(b"pHYs", b"\0"), chunk(b"sRGB", b""), chunk(b"gAMA", b"\1")),
        (chunk(b"tRNS", b""),),
        (chunk(b"cHRM", b"\0" * 5), chunk(b"eXIf", b"nothing"), chunk(b"teSt", b"")),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_metadata_does_not_hide_a_png(chunks: tuple[bytes, ...], place: str) -> None:
    data = with_chunks(*chunks, at=33 if place == "before" else -12)
    assert np.array_equal(decode(data), SMOOTH)


def test_what_a_damaged_png_lacks_is_still_missed() -> None:
    data = encoded("PNG")
    broken = data.replace(b"IDAT", b"IDAT\0", 1)
    assert refusal(broken).problem == ImageProblem.UNDECODABLE
    assert refusal(data[:-30]).problem == ImageProblem.UNDECODABLE


def test_millions_of_chunks_are_refused_at_once() -> None:
    data = with_chunks(chunk(b"teSt", b"") * 200_000)
    assert "more than 100,000 chunks" in str(refusal(data))


def overlapping(tags: int, size: int) -> bytes:
    """EXIF of so many tags, each of so many bytes, at the same place."""
    entries = b"".join(
        struct.pack("<HHII", 1000 + tag, 1, size, 0) for tag in range(tags - 1)
    )
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + entries
    return b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4 + size)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_exif_that_would_fill_the_memory_is_not_unpacked(kind: str) -> None:
    exif = overlapping(4000, 1_000_000)  # 4 GB, if each were read
    stored = SMOOTH.transpose(Image.Transpose.ROTATE_90)
    if kind == "JPEG":  # in pieces of 64 KiB
        pieces = [exif[at : at + 60_000] for at in range(0, len(exif), 60_000)]
        segments = b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces)
        plain = encoded("JPEG", stored)
        data = plain[:2] + segments + plain[2:]
    elif kind in ("PNG", "WEBP"):
        data = encoded(kind, stored, exif=exif)
    else:  # how these are turned a box of their own says
        if kind == "HEIF":
            pillow_heif.register_heif_opener()
        harmless = exif[:8] + bytes(len(exif) - 8)
        data = encoded(kind, SMOOTH, exif=harmless).replace(harmless, exif)
        assert exif in data
    start = time.process_time()
    assert decode(data).size == SMOOTH.size
    assert time.process_time() - start < 1


def test_tags_of_a_tiff_that_would_fill_the_memory_are_refused() -> None:
    data = encoded("TIFF")
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    own = data[place + 2 : place + 2 + 12 * count]
    more = b"".join(struct.pack("<HHII", 50000 + t, 1, len(data), 0) for t in range(3000))
    table = struct.pack("<H", count + 3000) + own + more + bytes(4)
    large = data[:4] + struct.pack("<I", len(data)) + data[8:] + table
    assert "its tags hold more bytes" in str(refusal(large))
    assert "its header is truncated" in str(refusal(data[:4] + b"\xff" * 4 + data[8:]))


def test_millions_of_comments_in_a_gif_are_refused_at_once() -> None:
    data = encoded("GIF")
    image = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # after the palette
    comments = {"separate": b"!\xfe\1a\0" * 100_000, "one": b"!\xfe" + b"\1a" * 100_000}
    for flood in comments.values():
        flooded = data[:image] + flood + b"\0" + data[image:]
        assert "more than 10,000 blocks" in str(refusal(flooded))
    few = data[:image] + b"!\xfe\5hello\0" * 50 + data[image:]
    assert np.array_equal(decode(few), decode(data))


@pytest.mark.parametrize("kind", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_may_be_of_any_integer_type(kind: int, order: str) -> None:
    value = struct.pack(order + {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}[kind], 6)
    exif = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)
    exif += struct.pack(order + "HHI", 0x0112, kind, 1) + value.ljust(4, b"\0") + bytes(4)
    stored = SMOOTH.transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(decode(encoded("PNG", stored, exif=exif)), SMOOTH)


def test_the_orientation_is_found_where_editors_put_it() -> None:
    stored = SMOOTH.transpose(Image.Transpose.ROTATE_90)
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert np.array_equal(decode(encoded("PNG", stored, pnginfo=texts)), SMOOTH)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(kind, stored, exif=exif)), SMOOTH), kind
    for kind in ("JPEG", "WEBP", "AVIF"):
        assert decode(encoded(kind, stored, exif=exif)).size == SMOOTH.size, kind


def test_the_first_image_of_several_counts() -> None:
    other = Image.new("RGB", SMOOTH.size, "red")
    options = {"save_all": True, "append_images": [other, other]}
    for kind in ("PNG", "TIFF", "WEBP", "GIF", "AVIF", "MPO"):
        found = np.array(decode(encoded(kind, **options)), float)
        assert np.abs(found - np.array(SMOOTH, float)).mean() < 8, kind
