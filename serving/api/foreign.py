"""Problems of the routes that follow others' protocols, completed for their clients."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import MEDIA_TYPE

Complete = Callable[[dict[str, Any]], None]  # adds to a problem's document


class ForeignErrors:
    """Complete the problems below some paths, whoever refused the request.

    It goes outside of whatever may refuse one.

    Args:
        app: what answers.
        completions: by the beginning of the path.
    """

    def __init__(self, app: ASGIApp, completions: Mapping[str, Complete]) -> None:
        self._app = app
        self._completions = completions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, and complete the problem that comes out of it."""
        complete = None if scope["type"] != "http" else self._completion(scope["path"])
        if complete is None:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def completed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    problem = json.loads(body)
                    complete(problem)
                    content = json.dumps(problem).encode()
                    headers = MutableHeaders(raw=start["headers"])
                    headers["content-length"] = str(len(content))
                    await send(start)
                    await send({"type": "http.response.body", "body": content})

        await self._app(scope, receive, completed)

    def _completion(self, path: str) -> Complete | None:
        for begin, complete in self._completions.items():
            if path.startswith(begin):
                return complete
        return None


def _is_problem(start: Message) -> bool:
    found = MutableHeaders(raw=start["headers"]).get("content-type", "")
    return found.startswith(MEDIA_TYPE)
