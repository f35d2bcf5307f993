"""The application: its routes, and the middleware that every request passes."""

from functools import cache, partial

from fastapi import FastAPI

from serving import page
from serving.api import (
    embedding,
    evidence,
    kserve,
    model_card,
    model_list,
    openai,
    openapi,
    probes,
)
from serving.api.problems import ForeignErrors, install_handlers
from serving.limits import CrossOrigin, Rates, RequireKey, UploadLimits
from serving.observability import install_observability

# In the order of the schema.
_WITH_ROUTES = (
    embedding,
    openai,
    kserve,
    model_card,
    model_list,
    evidence,
    probes,
    page,
)


def create_app() -> FastAPI:
    """Return the application; set `app.state.models` before the first request."""
    # FastAPI's documentation pages load scripts from another host; our page is at `/`.
    # Its redirect of `/v1/embed/` loses a proxy's https, and most clients drop the body.
    app = FastAPI(
        title="Isogon",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.complete = True  # False while one of several processes is missing
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign]
    # Middleware from the inside out: a request passes the last one first.
    app.add_middleware(UploadLimits)
    app.add_middleware(RequireKey, rates=Rates())
    install_handlers(app)  # handles errors of all above
    completions = {openai.PATH: openai.complete, kserve.FOLDER: kserve.complete}
    app.add_middleware(ForeignErrors, completions=completions)  # of all above
    app.add_middleware(CrossOrigin)  # a preflight has no key; refusals need CORS too
    for module in _WITH_ROUTES:
        app.include_router(module.router)
    install_observability(app)  # last: it observes all above
    return app
