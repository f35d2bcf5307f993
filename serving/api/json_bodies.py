"""JSON bodies: parsed with a limit on the number of values, and the images inside decoded.

`parsed` turns a body into its pydantic model. `from_base64` and `from_data_url` turn the
text of one image into its bytes. Each error names the field, its value and what to send.
"""

import base64
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from serving.api.problems import ProblemError, bad_field, require_image_type, require_size
from serving.settings import Settings

# Larger bodies are parsed in a thread: 72 MiB would block the event loop for 0.3 s.
_LARGE = 2**20

# Commas, colons and brackets allowed in addition to those of the images.
_SPARE = 1000

# A string, or one of the marks between values. An image is one string: the colon and the
# comma of a data URL are inside it and do not count.
_STRING_OR_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[,:\[{]', re.DOTALL)

_BEGIN = b'{["-0123456789tfn'  # what JSON can begin with, after whitespace
_OTHERS = {
    b"\x1f\x8b": "compressed by gzip",
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
    b"data:": "a data URL",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # RFC 8259 lets a parser ignore it
_UNKNOWN, _MISSING = "extra_forbidden", "missing"  # pydantic's names of errors
_OF_THE_REST = (_MISSING, "too_short")  # a document cut off early has these anyway
_FAULTS = {
    _MISSING: "the field is missing",
    "int_type": "it should be an integer",
    "list_type": "it should be a list",
    "model_type": "it should be an object",
    "string_type": "it should be a string",
    "too_short": "it should not be empty",
}

_BRIEF = 40  # characters
_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a longer string",
    type(None): "null",
}

_DATA_URL = re.compile(r"\s*data:", re.IGNORECASE)
# What stands before the data; a quoted parameter may have a comma: `;name="a,b.jpg"`.
_HEAD_LIMIT = 1000  # characters
_DATA_HEAD = re.compile(r'[^,;"]*(?:;(?:[^,;"]+|"[^"]*")*)*')
_OTHER_URL = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_\-= \t\r\n\v\f]")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")  # RFC 4648, section 5
_SPACE = b" \t\r\n\v\f"
_END = "= \t\r\n\v\f"  # padding, and what may stand around it
_ESCAPES = {"%2b": "+", "%2f": "/", "%3d": "=", "%0a": "\n", "%0d": "\r", "%20": " "}

Body = TypeVar("Body", bound=BaseModel)
Found = TypeVar("Found")


async def beside(size: int, work: Callable[[], Found]) -> Found:
    """Return the result of `work`; in a thread if the body of `size` bytes is large."""
    return work() if size < _LARGE else await anyio.to_thread.run_sync(work)


def parsed(
    body: bytes,
    model: type[Body],
    settings: Settings,
    expected: str,
    *,
    most: int | None = None,
) -> Body:
    """Return a JSON body as an instance of `model`.

    Millions of values would take gigabytes of memory. So a body with too many is cut, and
    an error in its first part is reported before the 413.

    Args:
        body: JSON.
        model: what it should be.
        settings: of the operator.
        expected: an example of what to send, for messages.
        most: the most values it may have; None: as many as a full request of images has.

    Raises:
        ProblemError: 400 if it is not JSON, 413 if it has too many values, 422 for a
            field that is missing, unknown or malformed.
    """
    if most is None:
        most = 3 * settings.max_images + _SPARE
    text = body.removeprefix(_BYTE_ORDER_MARK)
    end = _end(text, most)
    whole = end == len(text)
    document = _document(text[:end], whole, expected)
    try:
        found = model.model_validate(_without_nulls(document, model))
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if known := [one for one in faults if whole or one["type"] not in _OF_THE_REST]:
            raise bad_field(*_explained(known, model, expected)) from error
    else:
        if whole:
            return found
    raise ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has more than {most:,} JSON values, and a request may hold "
        f"{settings.max_images} images. Send the rest in another.",
    )


def from_base64(text: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `images[index]`, sent in base64 or as a data URL.

    Raises:
        ProblemError: 413 if it has too many bytes, 415 for a data URL that is not of an
            image, 422 if it is neither.
    """
    name = f"images[{index}]"
    if _DATA_URL.match(text):
        return _from_data_url(text, name, index, settings)
    if other := _OTHER_URL.match(text):
        raise bad_field(
            f"{name} is a {other[1].lower()[:10]} URL, and the service fetches nothing. "
            f"Send the file's bytes in base64.",
            index,
        )
    return _decoded(text, name, index, settings)


def from_data_url(text: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `input[index]`, a data URL (RFC 2397) in base64.

    Raises:
        ProblemError: 413 if it has too many bytes, 415 for a data URL that is not of an
            image, 422 if it is not a data URL in base64.
    """
    name = f"input[{index}]"
    if _DATA_URL.match(text):
        return _from_data_url(text, name, index, settings)
    other = _OTHER_URL.match(text)
    found = f"a {other[1].lower()[:10]} URL" if other else "text" if text else "empty"
    raise bad_field(
        f"{name} is {found}, and this model embeds images sent in the request: the "
        f"service fetches nothing. Send `data:image/jpeg;base64,` and the file's bytes "
        f"in base64.",
        index,
    )


def _end(text: bytes, most: int) -> int:
    """Return after how many bytes to cut, so that no more than `most` values remain."""
    if sum(map(text.count, (b",", b"[", b"{", b":"))) <= most:
        return len(text)  # also counts marks inside strings, but is much faster
    marks = 0
    for found in _STRING_OR_MARK.finditer(text):
        marks += found.end() - found.start() == 1
        if marks > most:
            return found.start()
    return len(text)


def _document(text: bytes, whole: bool, expected: str) -> Any:
    try:
        return from_json(text, allow_partial=not whole)
    except ValueError as error:
        begin = text.lstrip()[:8]
        if not begin:
            detail = "The body is empty"
        elif begin[0] in _BEGIN:
            detail = f"The body is malformed JSON: {error}"
        else:
            found = next(
                (_OTHERS[each] for each in _OTHERS if begin.startswith(each)), "none"
            )
            detail = (
                f"The body is declared as JSON but is {found}: it begins with {begin!r}"
            )
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"{detail}. Expected {expected}."
        ) from error


def _without_nulls(document: Any, model: type[BaseModel]) -> Any:
    """Leave out unknown fields that are null: some clients write unused options so."""
    if not isinstance(document, dict):
        return document
    known = model.model_fields
    return {k: v for k, v in document.items() if v is not None or k in known}


def _explained(
    faults: Sequence[ErrorDetails], model: type[BaseModel], expected: str
) -> tuple[str, int | None]:
    """Return the message for a document that does not fit, and the image it is about.

    An unknown field is reported first: often it is a missing one, misspelt.
    """
    first = next((one for one in faults if one["type"] == _UNKNOWN), faults[0])
    where = "".join(f"[{at}]" if isinstance(at, int) else at for at in first["loc"])[:80]
    if first["type"] == _UNKNOWN:
        told = f"there is no such field; the fields are {', '.join(model.model_fields)}"
    else:
        told = _FAULTS.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] not in (_UNKNOWN, *_OF_THE_REST):
        told += f", got {_kind(first['input'])}"
    index = next((at for at in first["loc"] if isinstance(at, int)), None)
    return f"{where or 'The body'}: {told}. Expected {expected}.", index


def _kind(value: object) -> str:
    """Return what kind of JSON value it is; a short text itself."""
    if isinstance(value, str) and len(value) <= _BRIEF:
        return repr(value)
    return _KINDS.get(type(value), "an object")


def _from_data_url(url: str, name: str, index: int, settings: Settings) -> bytes:
    found = _DATA_HEAD.match(url, 0, _HEAD_LIMIT)
    head = "" if found is None else found[0]
    comma, data = url[len(head) : len(head) + 1], url[len(head) + 1 :]
    kind, *parameters = head.partition(":")[2].lower().split(";")
    in_base64 = "base64" in map(str.strip, parameters)
    if not (comma and in_base64):
        lacks = "has no comma" if in_base64 else "is not in base64"
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
        image = _decoded_leniently(text, name, index)
    require_size(len(image), index, settings)
    return image


def _decoded_leniently(text: str, name: str, index: int) -> bytes:
    """Decode base64 with line breaks, with the alphabet for URLs, or without padding."""
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
            f"{name} is not base64: it ends after {len(plain):,} characters, inside a "
            f"byte. Send all of it.",
            index,
        )
    return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)


def _wrong(text: str) -> int | None:
    """Return the position of the first character that base64 cannot have there."""
    odd = _NOT_BASE64.search(text)
    good = text if odd is None else text[: odd.start()]
    padding = good.rstrip(_END).find("=")  # before other digits
    if padding >= 0:
        return padding
    return None if odd is None else odd.start()
