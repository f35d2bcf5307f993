"""The application: its routes, and what every request passes through."""

from functools import cache, partial

from fastapi import FastAPI

from serving.api import cards, embedding, openai, openapi
from serving.api.problems import install_handlers
from serving.page import page, reference


def create_app() -> FastAPI:
    """Return the application; `app.state.models` must be set before it is asked."""
    # Its own pages of documentation ask a content delivery network; ours, nobody.
    app = FastAPI(title="Isogon", version="1", docs_url=None, redoc_url=None)
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign]
    install_handlers(app)
    app.include_router(embedding.router)
    app.include_router(openai.router)
    app.include_router(cards.router)
    app.include_router(page.router)
    app.include_router(reference.router)
    # The outermost, so that whatever refuses a request is understood.
    app.add_middleware(openai.OpenAIErrors)
    return app
