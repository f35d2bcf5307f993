"""Images as text inside JSON: base64, or data URLs. A URL is never fetched."""

import base64
import re

from serving.api.refused import bad_field, require_image_type, require_size
from serving.settings import Settings

_DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)
_OTHER_URL = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_\-= \t\r\n\v\f]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5
_SPACE = b" \t\r\n\v\f"
_END = "= \t\r\n\v\f"  # padding, and what may stand around it
_ESCAPES = {"%2b": "+", "%2f": "/", "%3d": "=", "%0a": "\n", "%0d": "\r", "%20": " "}


def from_base64(text: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `images[index]`, given in base64 or as a data URL.

    Raises:
        ProblemError: 413 past the limit on bytes, 415 for a data URL of something else
            than an image, 422 if it is neither.
    """
    name = f"images[{index}]"
    if _DATA_URL.match(text):
        return _from_data_url(text, name, index, settings)
    if other := _OTHER_URL.match(text):
        raise bad_field(
            f"{name} is a {other[1].lower()[:10]} URL, and nothing is fetched. Send the "
            f"file's bytes in base64.",
            index,
        )
    return _decoded(text, name, index, settings)


def from_data_url(text: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `input[index]`, a data URL (RFC 2397) in base64.

    Raises:
        ProblemError: 413 past the limit on bytes, 415 for a data URL of something else
            than an image, 422 for what is no data URL in base64.
    """
    name = f"input[{index}]"
    if _DATA_URL.match(text):
        return _from_data_url(text, name, index, settings)
    other = _OTHER_URL.match(text)
    found = f"a {other[1].lower()[:10]} URL" if other else "text" if text else "empty"
    raise bad_field(
        f"{name} is {found}, and this model embeds images that are in the request: "
        f"nothing is fetched. Send `data:image/jpeg;base64,` and the file's bytes in "
        f"base64.",
        index,
    )


def _from_data_url(url: str, name: str, index: int, settings: Settings) -> bytes:
    head, comma, data = url.partition(",")
    kind, *parameters = head.partition(":")[2].lower().split(";")
    in_base64 = "base64" in (part.strip() for part in parameters[-1:])
    if not (comma and in_base64):
        lacks = "it has no comma" if in_base64 else "not in base64"
        raise bad_field(
            f"{name} is a data URL, but {lacks}. "
            f"Send `data:image/jpeg;base64,` and the file's bytes in base64.",
            index,
        )
    require_image_type(kind, name, index)
    if "%" in data:
        for escape, character in _ESCAPES.items():
            data = data.replace(escape, character).replace(escape.upper(), character)
    return _decoded(data, name, index, settings)


def _decoded(text: str, name: str, index: int, settings: Settings) -> bytes:
    try:
        image = base64.b64decode(text, validate=True)
    except ValueError:
        image = _as_tools_write_it(text, name, index)
    require_size(len(image), index, settings)
    return image


def _as_tools_write_it(text: str, name: str, index: int) -> bytes:
    """Decode base64 that has line breaks, the alphabet of URLs, or no padding."""
    wrong = _wrong(text)
    if wrong is not None:
        raise bad_field(
            f"{name} is not base64: its character {wrong + 1:,} of {len(text):,} is "
            f"{text[wrong]!r}. Encode the file's bytes in base64.",
            index,
        )
    digits = text.rstrip(_END)
    plain = digits.encode().translate(_URL_SAFE, delete=_SPACE)
    if len(plain) % 4 == 1:
        raise bad_field(
            f"{name} is not base64: it ends after {len(plain):,} characters, within a "
            f"byte. Send all of it.",
            index,
        )
    return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)


def _wrong(text: str) -> int | None:
    """Return the place of the first character that no base64 has there, if one is."""
    odd = _NOT_BASE64.search(text)
    good = text if odd is None else text[: odd.start()]
    padding = good.rstrip(_END).find("=")  # before other digits
    if padding >= 0:
        return padding
    return None if odd is None else odd.start()
