"""What a JPEG will cost: counted by walking its markers, before anything is decoded."""

import re

from bundle.errors import ImageError, ImageProblem

_LAST = 0xD9  # end of image; a phone's video may follow
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0, SOF1, ...
_SCAN = 0xDA
_WITH_LENGTH = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))

# Within a scan FF stands before 0 or a restart marker, else it begins a marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")

_MOST_SCANS = 200  # cameras write about ten
_MOST_MARKERS = 10_000  # a profile of 16 MB, in pieces, has 255


def scans(data: bytes) -> int:
    """Return how many passes over the pixels a JPEG stores, in which it is decoded.

    What looks like a marker inside metadata, or after the end of the image, is none.
    A baseline JPEG's only pass is not walked.

    Raises:
        ImageError: they, or the segments, are more than any camera or editor writes.
    """
    found, components, place = 0, 0, 2
    for _ in range(_MOST_MARKERS):
        match = _MARKER.search(data, place)
        if match is None or match[1][0] == _LAST:
            return found
        marker, place = match[1][0], match.end()
        segment = data[place : place + 8]
        if marker in _FRAMES:
            components = segment[7] if len(segment) == 8 else 0
            sequential = marker in (0xC0, 0xC1)
        elif marker == _SCAN:
            found += 1
            if found > _MOST_SCANS:
                raise ImageError(
                    ImageProblem.TOO_LARGE,
                    f"is stored in more than {_MOST_SCANS} passes (progressive scans). "
                    f"Save it again as JPEG.",
                )
            if components and sequential and segment[2:3] == bytes([components]):
                return found  # it holds every component: the decoder reads no further
        if marker in _WITH_LENGTH:
            place += int.from_bytes(segment[:2])
    raise ImageError(
        ImageProblem.TOO_LARGE,
        f"has more than {_MOST_MARKERS:,} segments. Save it again as JPEG.",
    )
