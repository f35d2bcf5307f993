"""CORS: which other sites' pages may send requests from a browser."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.models import Models


class CrossOrigin:
    """Starlette's CORS for ISOGON_CORS_ORIGINS; without that, no other site is allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._cors: CORSMiddleware | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer preflight requests and add CORS headers, if origins are set."""
        models: Models | None = getattr(scope["app"].state, "models", None)
        if models is None or not models.settings.cors_origins:
            return await self._app(scope, receive, send)
        if self._cors is None:
            self._cors = CORSMiddleware(
                self._app,
                allow_origins=models.settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=(
                    "authorization",
                    "content-type",
                    "x-api-key",
                    "x-request-id",
                ),
                expose_headers=("retry-after", "x-request-id"),
            )
        await self._cors(scope, receive, send)
