"""The application: its routes, and what every request passes through."""

from fastapi import FastAPI

from serving.api import cards, embedding
from serving.api.problems import install_handlers
from serving.observability import install_observability
from serving.page import page


def create_app() -> FastAPI:
    """Return the application; `app.state.models` must be set before it is asked."""
    app = FastAPI(title="Isogon", version="1")
    install_handlers(app)
    app.include_router(embedding.router)
    app.include_router(cards.router)
    app.include_router(page.router)
    install_observability(app)  # last: it watches all of the above
    return app
