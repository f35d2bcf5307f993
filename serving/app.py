"""The application: its routes, and what every request passes through."""

from functools import cache, partial

from fastapi import FastAPI

from serving.api import (
    cards,
    embedding,
    kserve,
    listing,
    machines,
    openai,
    openapi,
    reference,
)
from serving.api.problems import ForeignErrors, install_handlers
from serving.limits import CrossOrigin, Rates, RequireKey, UploadLimits
from serving.observability import install_observability
from serving.page import page


def create_app() -> FastAPI:
    """Return the application; `app.state.models` must be set before it is asked."""
    # FastAPI's pages for people load scripts from another host; ours is at `/`.
    # Its redirects of `/v1/embed/` lose the https of a proxy, and most clients the body.
    app = FastAPI(
        title="Isogon",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.complete = True  # False while one of several processes is missing
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign]
    # From the inside out; a request passes the last one first.
    app.add_middleware(UploadLimits)
    app.add_middleware(RequireKey, rates=Rates())
    install_handlers(app)  # catches what fails in all of the above
    completions = {openai.PATH: openai.complete, kserve.FOLDER: kserve.complete}
    app.add_middleware(ForeignErrors, completions=completions)  # of all of the above
    app.add_middleware(CrossOrigin)  # a preflight has no key, and refusals are marked too
    app.include_router(embedding.router)
    app.include_router(openai.router)
    app.include_router(kserve.router)
    app.include_router(cards.router)
    app.include_router(listing.router)
    app.include_router(reference.router)
    app.include_router(machines.router)
    app.include_router(page.router)
    install_observability(app)  # last: it watches all of the above
    return app
