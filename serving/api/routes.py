"""Routes that know their query, and leave the rest of a request to their endpoint."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from serving.api.refused import bad_field

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class KnownQueryRoute(APIRoute):
    """A route that refuses a query parameter it does not have.

    One that is mistyped would be taken for absent, and the request answered by another
    model or in another encoding than was asked for.
    """

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        solved = super().get_route_handler()
        known = {parameter.alias for parameter in self.dependant.query_params}

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                _require_known(
                    [name for name, _ in request.query_params.multi_items()], known
                )
            return await solved(request)

        return handle


class QueryRoute(KnownQueryRoute):
    """One whose endpoint takes the request and, beside it, optional query parameters.

    Without a query they all have their defaults, and the endpoint is called as it is. To
    find that out by FastAPI's dependencies was an eighth of what a request of one image
    costs the event loop.
    """

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        solved = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                return await solved(request)
            answer: Response = await self.endpoint(request)
            return answer

        return handle


def _require_known(asked: list[str], known: set[str]) -> None:
    if unknown := sorted(set(asked) - known):
        has = ", ".join(sorted(known)) or "none"
        raise bad_field(
            f"The query has {', '.join(map(repr, unknown))}; this route's parameters are: "
            f"{has}."
        )
    if twice := {name for name in asked if asked.count(name) > 1}:
        raise bad_field(f"The query has {', '.join(sorted(twice))} twice. Give one value.")
