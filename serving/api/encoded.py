"""Images as text inside JSON: base64, or data URLs. A URL is never fetched."""

import base64
import binascii
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from pydantic import BaseModel, ValidationError

from bundle import ACCEPTED
from serving.api.refused import bad_field, bad_type, require_size, too_many
from serving.settings import Settings

Body = TypeVar("Body", bound=BaseModel)
Found = TypeVar("Found")

# From here on a body is parsed in a thread: 72 MiB would stop the event loop for 0.3 s.
_LARGE = 2**20

# Commas, colons and brackets that fields other than the images may bring.
_SPARE = 1000


async def beside(size: int, work: Callable[[], Found]) -> Found:
    """Return what `work` on a body of `size` bytes returns, off the event loop if large."""
    return work() if size < _LARGE else await anyio.to_thread.run_sync(work)


def parsed(body: bytes, model: type[Body], settings: Settings, expected: str) -> Body:
    """Return a JSON body as the `model` it should be.

    Raises:
        ProblemError: 413 for far more values than images may be sent, 422 for a field
            that is missing, unknown or malformed, with `expected` as what to send.
    """
    # An image brings at most three of these, as a data URL, and parsing millions of
    # values would cost gigabytes.
    if sum(map(body.count, (b",", b"[", b"{", b":"))) > 3 * settings.max_images + _SPARE:
        raise too_many(settings)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise bad_field(
            f"{where[:80]}: {first['msg']}. Expected {expected}.",
            next((part for part in first["loc"] if isinstance(part, int)), None),
        ) from error


def from_base64(text: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `images[index]`, given in base64.

    Raises:
        ProblemError: 413 past the limit on bytes, 422 if it is not base64.
    """
    return _decoded(
        text,
        index,
        settings,
        "images[{}] is not base64: {}. Encode the file's bytes, without a data-URL prefix.",
    )


def from_data_url(url: str, index: int, settings: Settings) -> bytes:
    """Return the bytes of `input[index]`, a data URL (RFC 2397) in base64.

    Raises:
        ProblemError: 413 past the limit on bytes, 415 for a data URL of something else
            than an image, 422 for what is no data URL in base64.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme.lower() != "data":
        found = f"a {scheme.lower()[:10]} URL" if rest.startswith("//") else "text"
        raise bad_field(
            f"input[{index}] is {found}, and this model embeds images that are in the "
            f"request: nothing is fetched. Send `data:image/jpeg;base64,` and the "
            f"file's bytes in base64.",
            index,
        )
    head, comma, data = rest.partition(",")
    kind, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma or "base64" not in parameters[-1:]:
        raise bad_field(
            f"input[{index}] is a data URL, but not in base64. "
            f"Send `data:image/jpeg;base64,` and the file's bytes in base64.",
            index,
        )
    if not kind.startswith("image/"):
        raise bad_type(
            f"input[{index}] is declared as {kind[:80] or 'text/plain'}. Send {ACCEPTED}.",
            index,
        )
    return _decoded(
        data,
        index,
        settings,
        "input[{}] is a data URL whose base64 is malformed: {}. "
        "Encode the file's bytes anew.",
    )


def _decoded(text: str, index: int, settings: Settings, refusal: str) -> bytes:
    try:
        image = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_field(refusal.format(index, error), index) from error
    require_size(len(image), index, settings)
    return image
