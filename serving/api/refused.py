"""Why an upload is refused: the problems that several ways to send images share."""

from http import HTTPStatus

from isogon.images import ACCEPTED
from serving.api.problems import ProblemError
from serving.settings import Settings


def require_size(size: int, index: int, settings: Settings) -> None:
    """Raise a 413 `ProblemError` if an encoded image has more bytes than it may."""
    if size > settings.max_image_bytes:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"images[{index}] has {size:,} bytes, more than the limit of "
            f"{settings.max_image_bytes:,}. Send a smaller file.",
            index=index,
        )


def require_image_type(declared: str, name: str, index: int) -> None:
    """Raise a 415 `ProblemError` if what is sent as an image is declared as another kind.

    Without a kind, or as bytes of any, it is looked at.
    """
    kind = declared.split(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise bad_type(f"{name} is declared as {kind[:80]}. Send {ACCEPTED}.", index)


def bad_field(detail: str, index: int | None = None) -> ProblemError:
    """Return the 422 for a field that is missing, unknown or malformed."""
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, index=index)


def bad_content_type(kind: str, remedy: str) -> ProblemError:
    """Return the 415 for a body of a type that its route does not take, or of none."""
    found = f"The content type is {kind[:80]!r}" if kind else "There is no content type"
    return bad_type(f"{found}. {remedy}")


def bad_type(detail: str, index: int | None = None) -> ProblemError:
    """Return the 415 for a type that is not accepted."""
    return ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, index=index)


def too_many(settings: Settings) -> ProblemError:
    """Return the 413 for more images than a request may hold."""
    return ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"A request may hold {settings.max_images} images. Send the rest in another.",
    )
