"""The application: its routes, and what every request passes through."""

from functools import cache, partial

from fastapi import FastAPI

from serving.api import cards, embedding, openai, openapi
from serving.api.problems import install_handlers
from serving.page import page


def create_app() -> FastAPI:
    """Return the application; `app.state.models` must be set before it is asked."""
    app = FastAPI(title="Isogon", version="1")
    app.openapi = cache(partial(openapi.document, app))  # type: ignore[method-assign]
    install_handlers(app)
    app.include_router(embedding.router)
    app.include_router(openai.router)
    app.include_router(cards.router)
    app.include_router(page.router)
    # The outermost, so that whatever refuses a request is understood.
    app.add_middleware(openai.OpenAIErrors)
    return app
