"""From a request's body to its encoded images, within limits, before any decoding."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from serving.api.bodies import body_of, content_type, pieces_of
from serving.api.json_bodies import beside, from_base64, parsed
from serving.api.problems import (
    ProblemError,
    bad_content_type,
    bad_field,
    bad_type,
    require_image_type,
    require_size,
    too_many,
)
from serving.api.schemas import Base64Images
from serving.settings import Settings

_JSON = '{"images": [base64, …]}'
_ACCEPTED = (
    "Send multipart/form-data with parts named `images`, one image as an image/* body, "
    f"or application/json {_JSON}."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """What a request holds: at least one image, and the name of the model."""

    images: list[bytes]
    model: str | None = None  # None: the default


async def read_upload(request: Request, settings: Settings) -> Upload:
    """Return the encoded images of a request, in order.

    Raises:
        ProblemError: 413 if it exceeds a limit on bytes or images, 415 for a content type
            that is not accepted, 422 for a field that is missing, unknown or malformed.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        return await _from_multipart(request, settings)
    if kind == "application/json":
        body = await body_of(request, settings)
        return await beside(len(body), lambda: _from_json(body, settings))
    if kind.startswith("image/"):
        return Upload(images=[await _alone(request, settings)])
    raise bad_content_type(kind, _ACCEPTED)


async def _alone(request: Request, settings: Settings) -> bytes:
    """Return a body that is one image; reading stops at the limit for one image."""
    try:
        return await body_of(request, settings, settings.max_image_bytes)
    except ProblemError as error:
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            error.index = 0
        raise


def _from_json(body: bytes, settings: Settings) -> Upload:
    found = parsed(body, Base64Images, settings, _JSON)
    if len(found.images) > settings.max_images:
        raise too_many(settings)
    images = [from_base64(text, i, settings) for i, text in enumerate(found.images)]
    return Upload(images=images, model=found.model)


class _Parser(MultiPartParser):
    """Starlette's parser, which also refuses a body cut off before its last boundary.

    It refuses a part that is not an image, or is too large, before it has read the whole
    part. Starlette takes a part without a filename for text, of at most 1 MiB. Nothing is
    written to a temporary folder: the folder may be full, and only memory is counted.
    """

    spool_max_size = 0  # no limit: files stay in memory
    complete = False

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], settings: Settings
    ) -> None:
        most = settings.max_images
        super().__init__(headers, stream, max_files=most, max_fields=most)
        self._settings = settings
        self._size = 0  # bytes of the current part

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._size = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        self._size += end - start
        require_size(self._size, self._current_files - 1, self._settings)

    def on_headers_finished(self) -> None:
        part = self._current_part
        # Older clients write a name that is not ASCII so (RFC 5987). The name is not used.
        part.content_disposition = (part.content_disposition or b"").replace(
            b"filename*=", b"filename="
        )
        super().on_headers_finished()
        if part.field_name not in ("images", "model"):
            raise bad_field(
                f"Expected parts named `images`, and at most one `model`, got "
                f"{part.field_name[:80]!r}."
            )
        if part.field_name == "images" and part.file is None:
            index = sum(name == "images" for name, _ in self.items)
            raise bad_field(
                f"images[{index}] has no filename, so it is a text field. "
                f"Name the file: with curl write `-F images=@photo.jpg`, with fetch "
                f'`form.append("images", blob, "photo.jpg")`.',
                index,
            )

    def on_end(self) -> None:
        self.complete = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self.complete:
            await form.close()
            raise MultiPartException("it ends before its last boundary.")
        return form


async def _from_multipart(request: Request, settings: Settings) -> Upload:
    parser = _Parser(request.headers, pieces_of(request, settings), settings)
    try:
        form = await parser.parse()
    except UnicodeError as error:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"The names of the multipart body's fields do not fit its charset: {error}.",
        ) from error
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(settings) from error
        raise ProblemError(
            HTTPStatus.BAD_REQUEST, f"The multipart body is malformed: {error.message}"
        ) from error
    try:
        parts = form.getlist("images")
        if not parts:
            raise bad_field("The form has no parts named `images`. Send at least one.")
        model = _model_in(form)
        images = [
            await _from_part(part, i)
            for i, part in enumerate(parts)
            if isinstance(part, UploadFile)  # `_Parser` has checked it
        ]
        return Upload(images=images, model=model)
    finally:
        await form.close()


def _model_in(form: FormData) -> str | None:
    match form.getlist("model"):
        case []:
            return None
        case [str(name)]:
            return name
        case [_]:
            raise bad_field("The part `model` is a file. Send the model's name as text.")
        case several:
            raise bad_field(f"The form has {len(several)} parts `model`. Send one.")


async def _from_part(part: UploadFile, index: int) -> bytes:
    coding = part.headers.get("content-transfer-encoding", "binary").strip().lower()
    if coding not in ("binary", "8bit", "7bit"):  # RFC 7578, 4.7
        raise bad_type(
            f"images[{index}] has the Content-Transfer-Encoding {coding[:80]!r}. Send the "
            f"file's bytes as they are.",
            index,
        )
    require_image_type(part.content_type or "", f"images[{index}]", index)
    image = await part.read()
    await part.close()  # frees its copy
    return image
