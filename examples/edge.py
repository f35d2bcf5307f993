"""Embed images and judge them with onnxruntime, numpy and Pillow: edge.py MODEL IMAGE...

What is done to an image before the model sees it is what the service does, on trusted
files: there are no limits here. With the package pi-heif it reads HEIC too.
"""

import io
import json
import os  # before ONNX Runtime, which else reports every session to Microsoft
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, ImagePalette, PngImagePlugin, TiffImagePlugin

try:
    import pi_heif

    pi_heif.register_heif_opener()
except ImportError:
    pass  # no HEIC, then

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28
for order, zero, bits in ((b"MM", 0, 16), (b"II", 0, 12), (b"MM", 0, 12), (b"MM", 1, 12)):
    modes = ("I;16B", "I;16B") if bits == 16 else ("I;16", "I;12")
    TiffImagePlugin.OPEN_INFO.setdefault((order, zero, (1,), 1, (bits,), ()), modes)


def black_and_white(image, data, samples):
    """Return the range of grey samples of more than 8 bits, as the file's tags say it."""
    tags = getattr(image, "tag_v2", {})
    most = next((np.ravel(tags[tag])[0] for tag in (341, 281) if tag in tags), None)
    if samples.dtype.kind != "u" and image.format != "PPM":
        least = next((np.ravel(tags[tag])[0] for tag in (340, 280) if tag in tags), 0)
        if most is None or not least < most:
            raise SystemExit(
                "The range of these samples is unknown; see the recipe's keys."
            )
        return float(least), float(most)
    bits = int(np.ravel(tags.get(258, 16))[0])
    if most is not None and 0 < most < 65535:
        bits = min(bits, int(most).bit_length())
    if image.format == "PNG":  # sBIT, unless the samples were scaled up to 16 bits
        header = data.partition(b"IDAT")[0]
        found = header.partition(b"sBIT")[2][:1]
        white = 2 ** (found[0] if found else 16) - 1
        off = np.abs(samples - np.rint(samples * (white / 65535)) * (65535 / white))
        if 255 <= white < 65535 and samples.max() <= white and off.max() > 1:
            bits = found[0]
    return 0, 2 ** max(bits, 8) - 1


def eight_bit(image, data, limits):
    """Return grey samples of more than 8 bits as 8 bits; a transparent grey stays one."""
    samples = np.asarray(image)
    black, white = limits or black_and_white(image, data, samples)
    step = 256 / (white - black + (samples.dtype.kind in "iu"))
    known = np.nan_to_num(samples.astype(float), nan=black).clip(black, white)
    grey = ((known - black) * step).clip(0, 255).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(262) == 0:  # white is zero
        grey = 255 - grey
    alpha = np.uint8(255) * (samples != image.info.get("transparency", -1))
    result = Image.fromarray(np.stack([grey, alpha], axis=-1))
    result.info = {k: v for k, v in image.info.items() if k != "transparency"}
    return result


def deep_colours(image, tile, data, limits):
    """Return colours of 16 bits as 8 bits; Pillow has kept only their high bytes."""
    low = Image.open(io.BytesIO(data))
    low.tile = []
    for part in tile:
        first, *rest = [part.args] if isinstance(part.args, str) else part.args
        first = first[:-1] + ("L" if first[-1] == "B" else "B")
        low.tile.append(part._replace(args=(first, *rest) if rest else first))
    found = np.array(image)
    samples = found.astype(np.uint16) * 256 + np.asarray(low)
    colours = samples[..., :3]
    black, white = limits or black_and_white(image, data, colours)
    if (black, white) != (0, 65535):
        step = 256 / (white - black + 1)
        found[..., :3] = (colours.clip(black, white) - black) * step
    clear = image.info.pop("transparency", None)
    if clear is not None:
        opaque = (colours != np.array(clear)).any(axis=-1)
        found = np.dstack([found, opaque.astype(np.uint8) * 255])
    result = Image.fromarray(found)
    result.info = image.info
    return result


def in_srgb(image):
    """Return the image in RGB or RGBA; an embedded profile says which colours it has."""
    grey, mode = image.mode in ("1", "L", "LA"), "RGB"
    profile = image.info.get("icc_profile") or b""
    space = profile[16:20] if isinstance(profile, bytes) else b""
    if image.mode in ("CMYK", "LAB"):
        mode = image.mode
    else:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if mode == "LAB":
        opened = ImageCms.createProfile("LAB")
    elif space != (b"CMYK" if mode == "CMYK" else b"RGB ") and not (
        grey and space == b"GRAY"
    ):
        return image.convert("RGB") if mode == "CMYK" else image
    else:
        opened, mode = io.BytesIO(profile), "L" if space == b"GRAY" else mode
    try:
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except ImageCms.PyCMSError:  # a damaged profile
        return image.convert("RGB") if mode == "CMYK" else image
    if mode in ("CMYK", "LAB"):
        return transform.apply(image)
    if mode == "L":
        levels = transform.apply(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
        rest = range(256) if image.mode == "RGBA" else ()
        return image.point([*np.asarray(levels)[0, :, 1].tolist() * 3, *rest])
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(grid))).astype(int)
    if np.abs(moved - grid).max() <= 2:  # it is sRGB
        return image
    corrected = transform.apply(image.convert("RGB"))
    if image.mode == "RGBA":
        corrected.putalpha(image.getchannel("A"))
    return corrected


def pixels(path, height, width, crop, limits=None):
    """Return the image upright, in sRGB, on white: its centred box, at the model's size."""
    data = Path(path).read_bytes()
    if data[:2] == b"\xff\xd8":
        data += b"\xff\xd9"  # some lack their end marker, but no pixel
    image = Image.open(io.BytesIO(data))
    colours = getattr(image, "tag_v2", {}).get(320)
    if image.mode == "P" and colours and max(colours) < 256:  # they should have 16 bits
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    shown = image.tile[0].extents if image.format == "GIF" else None  # on the canvas
    frame = data.find(b"ANMF", data.find(b"ANIM") + 1) + 8
    if image.format == "WEBP" and image.mode == "RGB" and frame > 7:
        sides = (data[frame + at : frame + at + 3] for at in (0, 3, 6, 9))
        x, y, w, h = (int.from_bytes(each, "little") for each in sides)
        shown = (2 * x, 2 * y, 2 * x + w + 1, 2 * y + h + 1)
    for n, part in enumerate(image.tile if image.format == "TIFF" else ()):
        if part.args[0] in ("R", "G", "B") and image.tag_v2[258][0] == 16:  # planes
            rawmode = part.args[0] + (";16B" if data[:2] == b"MM" else ";16L")
            image.tile[n] = part._replace(args=(rawmode, *part.args[1:]))
    tile = list(image.tile)
    image.load()
    turn = image.getexif().get(0x0112)
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None and image.mode == "L":
        image.info["transparency"] = clear * (255 // (2 ** data[24] - 1))
    stored = tile[0].args if tile else ""
    stored = stored if isinstance(stored, str) else stored[0]
    if image.mode in ("RGB", "RGBA") and stored[-4:-1] == ";16" and stored[:2] != "LA":
        image = deep_colours(image, tile, data, limits)
    if image.mode[0] in "IF":
        image = eight_bit(image, data, limits)
    if turn:
        image.getexif()[0x0112] = turn
        image = ImageOps.exif_transpose(image)
    if image.format == "BMP" and image.mode == "RGBA" and not image.getextrema()[3][1]:
        image = image.convert("RGB")  # no alpha was written
    image = in_srgb(image)
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if shown:
        screen = Image.new("RGB", image.size, "white")
        screen.paste(image.crop(shown), shown)
        image = screen
    scale = crop * min(image.width / width, image.height / height)
    w, h = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (left, top, left + w, top + h)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box))


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    asked = json.loads(metadata["isogon.preprocessing"])
    geometry = asked["height"], asked["width"], asked["crop"], asked.get("range")
    calibration = json.loads(metadata["isogon.calibration"])
    familiar = np.array(calibration["scores"])  # OOD scores; larger = less familiar
    for path in sys.argv[2:]:
        image = pixels(path, *geometry)[np.newaxis]
        (embedding,), (score,) = session.run(None, {"images": image})
        p = (1 + np.sum(familiar >= score)) / (len(familiar) + 1)
        verdict = "unfamiliar" if p <= calibration["alpha"] else "familiar"
        print(f"{path}  p = {p:.4f}  {verdict}  {embedding[:4].tolist()} ...")
