"""What bodies may take while they arrive and are worked on: time, and memory together."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import problem_response
from serving.models import Models
from serving.settings import Settings


class UploadLimits:
    """Refuse a body with 408 if it comes too slowly, with 429 if there is no room for it.

    Only reading is timed, and only until the body is complete; what the service then
    does with it has its own deadline. Its bytes count towards ISOGON_MAX_HELD_BYTES from
    their arrival to the end of the answer. What is announced does not count: who
    announces much and sends little keeps nobody out. Who sends much and stops before the
    end does, until ISOGON_UPLOAD_SECONDS are over.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on with a body that is read within the limits."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = asyncio.get_running_loop().time()
        complete = False
        held = 0
        reading = asyncio.timeout(None)

        async def limited() -> Message:
            nonlocal complete, held
            if complete:
                return await receive()
            settings = _settings(scope)
            if reading.when() is None:  # one clock for a body, which comes in pieces
                reading.reschedule(began + settings.upload_seconds)
            message = await receive()
            size = len(message.get("body", b""))
            if self._held + size > settings.max_held_bytes:
                raise _no_room(self._held, settings)
            held += size
            self._held += size
            if not message.get("more_body", False):
                complete = True
                reading.reschedule(None)
            return message

        try:
            async with reading:
                await self._app(scope, limited, send)
        except TimeoutError:
            if not reading.expired():
                raise
            response = _too_slow(_settings(scope))
            await response(scope, receive, send)
        finally:
            self._held -= held


def _settings(scope: Scope) -> Settings:
    models: Models = scope["app"].state.models
    return models.settings


def _too_slow(settings: Settings) -> Response:
    return problem_response(
        HTTPStatus.REQUEST_TIMEOUT,
        f"The body did not arrive within {settings.upload_seconds:g} s. Send fewer or "
        f"smaller images.",
        close=True,
    )


def _no_room(held: int, settings: Settings) -> HTTPException:
    return HTTPException(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Bodies of {held:,} bytes are being worked on; the service holds "
        f"{settings.max_held_bytes:,}. Send the request again later.",
        {"connection": "close", "retry-after": "1"},
    )
