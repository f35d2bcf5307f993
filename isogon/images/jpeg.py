"""The frame, scans and EXIF segments of a JPEG, from its markers, before it is decoded.

A file may lack its end marker with no pixel missing: `endings` finds out by decoding.
"""

import hashlib
import re
from dataclasses import dataclass

from isogon.errors import ImageError, ImageProblem

_LAST = 0xD9  # end of the image; a phone's video may follow
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0, SOF1, ...
_SEQUENTIAL = (0xC0, 0xC1)
_READ = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})  # not hierarchical, nor JPEG-LS
_LS = 0xF7  # the frame of JPEG-LS
_SCAN = 0xDA
_EXIF = 0xE1, b"Exif\0\0"
_WITH_LENGTH = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))

_COEFFICIENTS = 64  # of a block

_END = b"\xff\xd9"
# Scan data without markers: random bits, of which some begin with one bits.
_NOISE = tuple(
    begin + hashlib.shake_128(begin).digest(256).replace(b"\xff", b"\xfe")
    for begin in (b"\xfe", b"\x5a", b"\x01", b"\xc9")
)
_PADDING = 2  # bytes; scan data may end with as many zeros
TRIES = 6  # ends that `endings` tries
_RESTARTS = 8  # restart markers are FF D0 to FF D7, in turn

# In a scan, FF is followed by 0 or a restart marker; any other FF begins a marker.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")

_MOST_SCANS = 200  # cameras write about ten
_MOST_MARKERS = 10_000  # a profile of 16 MB, in pieces, has 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """How a JPEG is stored."""

    scans: int  # passes over the pixels
    ends: bool  # whether there is an end marker
    is_complete: bool  # whether scans for every coefficient have begun
    exif: tuple[tuple[int, int], ...]  # where its EXIF segments start and end

    def with_short_exif(self, data: bytes) -> bytes:
        """Return the file with only its first EXIF segment."""
        kept, done = [], 0
        for start, end in self.exif[1:]:
            kept.append(data[done:start])
            done = end
        return b"".join([*kept, data[done:]]) if kept else data


def structure(data: bytes, *, to_end: bool = False) -> Structure:
    """Return the structure of a JPEG; the scan of a baseline JPEG is not searched.

    Bytes like a marker inside metadata, or after the end of the image, do not count.

    Args:
        data: the file.
        to_end: whether to note which coefficients the scans hold.

    Raises:
        ImageError: it has more scans or segments than any camera or editor writes, or is
            a kind of JPEG that is not decoded.
    """
    scans, place, sequential = 0, 2, False
    components = b""  # their identifiers
    exif: list[tuple[int, int]] = []
    # By component: the coefficients of which no scan has given the last bit.
    missing: dict[int, set[int]] = {}

    def found(ends: bool) -> Structure:
        complete = scans > 0 and not any(missing.values())
        return Structure(scans=scans, exif=tuple(exif), ends=ends, is_complete=complete)

    for _ in range(_MOST_MARKERS):
        match = _MARKER.search(data, place)
        if match is None or match[1][0] == _LAST:
            return found(match is not None)
        marker, place = match[1][0], match.end()
        segment = data[place : place + 8]
        length = int.from_bytes(segment[:2]) if marker in _WITH_LENGTH else 0
        if (marker, segment[2:8]) == _EXIF:
            exif.append((match.start(), place + length))
        elif (marker in _FRAMES or marker == _LS) and len(segment) == 8:
            _require_read(marker, segment)
            components = data[place + 8 : place + length : 3]
            sequential = marker in _SEQUENTIAL
            if to_end:
                count = _COEFFICIENTS if marker != 0xC3 else 1
                missing = {each: set(range(count)) for each in components}
        elif marker == _SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ImageError(
                    ImageProblem.TOO_LARGE,
                    f"is stored in more than {_MOST_SCANS} passes (progressive scans). "
                    f"Save it again as JPEG.",
                )
            if to_end:
                _note_scan(data[place + 2 : place + length], missing)
            if sequential and segment[2:3] == bytes([len(components)]):
                # It has every component: the decoder reads no further.
                return found(data.rfind(_END, place) >= 0)
        place += length
    raise ImageError(
        ImageProblem.TOO_LARGE,
        f"has more than {_MOST_MARKERS:,} segments. Save it again as JPEG.",
    )


def endings(data: bytes) -> tuple[bytes, ...]:
    """Return a JPEG that lacks its end marker, with different ends; empty: truncated.

    If scan data is missing, the ends are decoded to different pixels: one is read as zero
    bits, the others as noise, with or without the next restart marker.
    """
    if not structure(data, to_end=True).is_complete:
        return ()
    whole = data.rstrip(b"\0\xff")
    if len(data) - len(whole) <= _PADDING:
        whole = data.rstrip(b"\xff")  # half of the marker
    last = max(whole.rfind(bytes([0xFF, 0xD0 + n])) for n in range(_RESTARTS))
    following = (whole[last + 1] - 0xD0 + 1) % _RESTARTS if last >= 0 else 0
    restart = bytes([0xFF, 0xD0 + following])
    between = b"", *_NOISE, restart + _NOISE[0]
    return tuple(whole + each + _END for each in between)


def _require_read(marker: int, segment: bytes) -> None:
    """Refuse a frame that libjpeg does not decode, with the reason."""
    bits, height = segment[2], int.from_bytes(segment[3:5])
    if marker not in _READ:
        kind = "a JPEG-LS" if marker == _LS else "a hierarchical or lossless JPEG"
    elif bits != 8:
        kind = f"a JPEG of {bits} bits per sample"
    elif height == 0:
        kind = "a JPEG whose height is not in its header"
    else:
        return
    raise ImageError(
        ImageProblem.UNSUPPORTED,
        f"is {kind}, which is not decoded. Save it as PNG, or as JPEG of 8 bits.",
    )


def _note_scan(header: bytes, missing: dict[int, set[int]]) -> None:
    """Remove from `missing` what a scan holds to the last bit."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    if bits & 15:  # later scans refine it
        return
    for component in header[1 : 1 + 2 * count : 2]:
        if component in missing:
            missing[component] -= set(range(first, max(first, last) + 1))
