"""The time that a request's body may take to arrive."""

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.models import Models


class UploadTime:
    """Refuse with 408 a body that has not arrived within ISOGON_UPLOAD_SECONDS.

    Only reading is timed, and only until the body is complete; what the service then
    does with it has its own deadline.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on with a body that is waited for so long and no longer."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = asyncio.get_running_loop().time()
        complete = False

        async def timed() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            models: Models = scope["app"].state.models
            seconds = models.settings.upload_seconds
            try:
                async with asyncio.timeout_at(began + seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"The body did not arrive within {seconds:g} s. Send fewer or "
                    f"smaller images.",
                    {"connection": "close"},
                ) from None
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, timed, send)
