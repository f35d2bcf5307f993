"""Small ICC profiles, made here: colour primaries or a grey curve with a plain gamma."""

import struct

import numpy as np

# Chromaticities of red, green and blue; the white is D65 in all.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))

_D65 = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def rgb_profile(primaries: tuple[tuple[float, float], ...], gamma: float = 2.2) -> bytes:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    columns = columns * np.linalg.solve(columns, _D65)
    scale = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _D65))
    columns = np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ columns
    tags = {
        f"{c}XYZ".encode(): _xyz(column) for c, column in zip("rgb", columns.T, strict=True)
    }
    tags |= {f"{c}TRC".encode(): _curve(gamma) for c in "rgb"}
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"desc": description, b"wtpt": _xyz(_D50), **tags}
    place = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", place + len(body), len(value))
        body += value
    header = struct.pack(
        ">I4sI4s4s4s12x4s",
        place + len(body),
        b"lcms",
        0x02400000,
        b"mntr",
        space,
        b"XYZ ",
        b"acsp",
    )
    header = header.ljust(68, b"\0") + b"".join(
        struct.pack(">i", round(v * 65536)) for v in _D50
    )
    return header.ljust(128, b"\0") + table + body
