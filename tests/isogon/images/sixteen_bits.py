"""TIFF and PNG files of 16-bit colours, which Pillow does not write."""

import struct
import zlib

import numpy as np


def tiff(samples: np.ndarray, *, most: int | None, order: str, planes: bool) -> bytes:
    """Return an uncompressed TIFF of 16-bit colours; `most` is its MaxSampleValue."""
    height, width, bands = samples.shape
    stored = np.moveaxis(samples, 2, 0) if planes else samples
    parts = list(stored) if planes else [stored]
    data = b"".join(part.astype(f"{order}u2").tobytes() for part in parts)
    size = len(data) // len(parts)
    places = [8 + size * number for number in range(len(parts))]
    tags = {
        256: [width], 257: [height], 258: [16] * bands, 259: [1], 262: [2],
        273: places, 277: [bands], 278: [height], 279: [size] * len(parts),
        281: [] if most is None else [most] * bands, 284: [2 if planes else 1],
    }  # fmt: skip
    tags = {tag: values for tag, values in tags.items() if values}
    start = 8 + len(data)
    spare = start + 2 + 12 * len(tags) + 4
    entries, values_apart = struct.pack(f"{order}H", len(tags)), b""
    for tag, values in tags.items():
        written = struct.pack(f"{order}{len(values)}I", *values)
        if len(written) > 4:
            place, values_apart = spare + len(values_apart), values_apart + written
            written = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + written
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", start)
    return head + data + entries + bytes(4) + values_apart


def png(samples: np.ndarray, **chunks: bytes) -> bytes:
    """Return a PNG of 16-bit colours, with these chunks before its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    height, width, _ = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    between = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + between + pixels
