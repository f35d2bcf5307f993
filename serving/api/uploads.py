"""From a request's body to the bytes of its images, under limits, before any decoding."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from bundle import ACCEPTED
from serving.api.bodies import body_of, content_type, pieces_of
from serving.api.encoded import beside, from_base64, parsed
from serving.api.problems import ProblemError
from serving.api.refused import bad_field, bad_type, require_size, too_many
from serving.api.schemas import Base64Images
from serving.settings import Settings

_JSON = '{"images": [base64, …]}'
_ACCEPTED = (
    "Send multipart/form-data with parts named `images`, one image as an image/* body, "
    f"or application/json {_JSON}."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a request brings: at least one image, and which model is to answer."""

    images: list[bytes]
    model: str | None = None  # None: the default


async def read_upload(request: Request, settings: Settings) -> Upload:
    """Return the encoded images of a request, in order.

    Raises:
        ProblemError: 413 past a limit on bytes or images, 415 for a content type not
            accepted, 422 for a field that is missing, unknown or malformed.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        return await _from_multipart(request, settings)
    if kind == "application/json":
        body = await body_of(request, settings)
        return await beside(len(body), lambda: _from_json(body, settings))
    if kind.startswith("image/"):
        image = await body_of(request, settings)
        require_size(len(image), 0, settings)
        return Upload(images=[image])
    raise bad_type(f"The content type is {kind or 'missing'!r}. {_ACCEPTED}")


def _from_json(body: bytes, settings: Settings) -> Upload:
    found = parsed(body, Base64Images, settings, _JSON)
    if len(found.images) > settings.max_images:
        raise too_many(settings)
    images = [from_base64(text, i, settings) for i, text in enumerate(found.images)]
    return Upload(images=images, model=found.model)


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


async def _from_multipart(request: Request, settings: Settings) -> Upload:
    parser = _CompleteParser(
        request.headers,
        pieces_of(request, settings),
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
            raise too_many(settings) from error
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"The multipart body is malformed: {error.message}"
        ) from error
    try:
        others = sorted(set(form) - {"images", "model"})
        parts = form.getlist("images")
        if others or not parts:
            found = ", ".join(map(repr, others)) or "none"
            raise bad_field(f"Expected parts named `images`, got {found}.")
        model = form.get("model")
        if not isinstance(model, str | None):
            raise bad_field("The part `model` is a file. Send the model's name as text.")
        images = [await _from_part(part, i, settings) for i, part in enumerate(parts)]
        return Upload(images=images, model=model)
    finally:
        await form.close()


async def _from_part(part: UploadFile | str, index: int, settings: Settings) -> bytes:
    if isinstance(part, str):
        raise bad_field(
            f"images[{index}] is a text field, not a file; "
            f"with curl write `-F images=@photo.jpg`.",
            index,
        )
    kind = (part.content_type or "").split(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise bad_type(f"images[{index}] is declared as {kind}. Send {ACCEPTED}.", index)
    require_size(part.size or 0, index, settings)
    return await part.read()
