"""From a request's body to the bytes of its images, under limits, before any decoding."""

import base64
import binascii
from collections.abc import AsyncGenerator
from http import HTTPStatus

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serving.api.problems import ProblemError
from serving.api.schemas import Base64Images
from serving.settings import Settings

_ACCEPTED = (
    "Send multipart/form-data with parts named `images`, one image as an image/* body, "
    'or application/json {"images": [base64, …]}.'
)


async def read_images(request: Request, settings: Settings) -> list[bytes]:
    """Return the encoded images of a request, in order, at least one.

    Raises:
        ProblemError: 413 past a limit on bytes or images, 415 for a content type not
            accepted, 422 for a field that is missing, unknown or malformed.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images = await _from_multipart(request, settings)
    elif kind == "application/json":
        images = _from_json(await _body(request, settings), settings)
    elif kind.startswith("image/"):
        images = [await _body(request, settings)]
    else:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The content type is {kind or 'missing'!r}. {_ACCEPTED}",
        )
    for index, image in enumerate(images):
        _require_size(len(image), index, settings)
    return images


async def _body(request: Request, settings: Settings) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, settings)])


async def _limited(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    """Pass the body on; stop at the limit, without reading what was only announced."""
    announced = request.headers.get("content-length", "0")
    received = int(announced) if announced.isdecimal() else 0
    if received <= settings.max_body_bytes:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > settings.max_body_bytes:
                break
            yield chunk
        else:
            return
    raise ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has {received:,} bytes or more, the limit is "
        f"{settings.max_body_bytes:,}. Send fewer or smaller images.",
    )


class _CompleteParser(MultiPartParser):
    """Starlette's parser, but a body cut off before its last boundary is refused."""

    complete = False

    def on_end(self) -> None:
        self.complete = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self.complete:
            await form.close()
            raise MultiPartException("it ends before its last boundary.")
        return form


async def _from_multipart(request: Request, settings: Settings) -> list[bytes]:
    parser = _CompleteParser(
        request.headers,
        _limited(request, settings),
        max_files=settings.max_images,
        max_fields=settings.max_images,
    )
    try:
        form = await parser.parse()
    except UnicodeError as error:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"The multipart body names fields in a charset that does not fit: {error}.",
        ) from error
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(settings) from error
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"The multipart body is malformed: {error.message}"
        ) from error
    try:
        others = sorted(set(form) - {"images"})
        if others or not form:
            found = ", ".join(map(repr, others)) or "none"
            raise _bad_field(f"Expected parts named `images`, got {found}.")
        parts = form.getlist("images")
        return [await _from_part(part, i, settings) for i, part in enumerate(parts)]
    finally:
        await form.close()


async def _from_part(part: UploadFile | str, index: int, settings: Settings) -> bytes:
    if isinstance(part, str):
        raise _bad_field(
            f"images[{index}] is a text field, not a file; "
            f"with curl write `-F images=@photo.jpg`.",
            index,
        )
    kind = (part.content_type or "").split(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"images[{index}] is declared as {kind}. Send JPEG, PNG or WebP.",
            index=index,
        )
    _require_size(part.size or 0, index, settings)
    return await part.read()


def _from_json(body: bytes, settings: Settings) -> list[bytes]:
    # Base64 holds none of these: more of them than images is no request of ours, and
    # parsing millions would cost gigabytes.
    if sum(map(body.count, (b",", b"[", b"{", b":"))) > settings.max_images + 8:
        raise _too_many(settings)
    try:
        encoded = Base64Images.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise _bad_field(
            f'{where[:80]}: {first["msg"]}. Expected {{"images": [base64, …]}}.',
            next((part for part in first["loc"] if isinstance(part, int)), None),
        ) from error
    if len(encoded) > settings.max_images:
        raise _too_many(settings)
    return [_from_base64(text, index) for index, text in enumerate(encoded)]


def _from_base64(text: str, index: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_field(
            f"images[{index}] is not base64: {error}. "
            f"Encode the file's bytes, without a data-URL prefix.",
            index,
        ) from error


def _require_size(size: int, index: int, settings: Settings) -> None:
    if size > settings.max_image_bytes:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"images[{index}] has {size:,} bytes, more than the limit of "
            f"{settings.max_image_bytes:,}. Send a smaller file.",
            index=index,
        )


def _bad_field(detail: str, index: int | None = None) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, index=index)


def _too_many(settings: Settings) -> ProblemError:
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"A request may hold {settings.max_images} images. Send the rest in another.",
    )
