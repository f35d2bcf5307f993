"""The scans and EXIF segments of a JPEG, from its markers, before it is decoded."""

import re
from dataclasses import dataclass

from isogon.errors import ImageError, ImageProblem

_LAST = 0xD9  # end of the image; a phone's video may follow
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0, SOF1, ...
_SEQUENTIAL = (0xC0, 0xC1)
_SCAN = 0xDA
_EXIF = 0xE1, b"Exif\0\0"
_WITH_LENGTH = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))

# In a scan, FF is followed by 0 or a restart marker; any other FF begins a marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")

_MOST_SCANS = 200  # cameras write about ten
_MOST_MARKERS = 10_000  # a profile of 16 MB, in pieces, has 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """How a JPEG is stored."""

    scans: int  # passes over the pixels
    exif: tuple[tuple[int, int], ...]  # where its EXIF segments start and end

    def with_short_exif(self, data: bytes) -> bytes:
        """Return the file with only its first EXIF segment."""
        kept, done = [], 0
        for start, end in self.exif[1:]:
            kept.append(data[done:start])
            done = end
        return b"".join([*kept, data[done:]]) if kept else data


def structure(data: bytes) -> Structure:
    """Return the structure of a JPEG; the scan of a baseline JPEG is not searched.

    Bytes like a marker inside metadata, or after the end of the image, do not count.

    Raises:
        ImageError: it has more scans or segments than any camera or editor writes.
    """
    scans, components, place, sequential = 0, 0, 2, False
    exif: list[tuple[int, int]] = []
    for _ in range(_MOST_MARKERS):
        match = _MARKER.search(data, place)
        if match is None or match[1][0] == _LAST:
            return Structure(scans=scans, exif=tuple(exif))
        marker, place = match[1][0], match.end()
        segment = data[place : place + 8]
        length = int.from_bytes(segment[:2]) if marker in _WITH_LENGTH else 0
        if (marker, segment[2:8]) == _EXIF:
            exif.append((match.start(), place + length))
        elif marker in _FRAMES:
            components = segment[7] if len(segment) == 8 else 0
            sequential = marker in _SEQUENTIAL
        elif marker == _SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ImageError(
                    ImageProblem.TOO_LARGE,
                    f"is stored in more than {_MOST_SCANS} passes (progressive scans). "
                    f"Save it again as JPEG.",
                )
            if sequential and segment[2:3] == bytes([components]):
                # It has every component: the decoder reads no further.
                return Structure(scans=scans, exif=tuple(exif))
        place += length
    raise ImageError(
        ImageProblem.TOO_LARGE,
        f"has more than {_MOST_MARKERS:,} segments. Save it again as JPEG.",
    )
