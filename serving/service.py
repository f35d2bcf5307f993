"""The BentoML service: `bentoml serve serving.service:Isogon` with ISOGON_BUNDLE set."""

import logging

import bentoml

from bundle import IsogonError
from serving.app import create_app
from serving.models import Models
from serving.settings import settings_from_environment

_log = logging.getLogger("isogon.serving")

app = create_app()


# The access log decodes content types as UTF-8, and loses the answer where they are not.
@bentoml.service(
    name="isogon",
    traffic={"timeout": 600},
    logging={"access": {"request_content_type": False}},
)
@bentoml.asgi_app(app, path="/")
class Isogon:
    """Load one bundle; the worker is ready only after its golden check."""

    def __init__(self) -> None:
        try:
            app.state.models = Models.load(settings_from_environment())
        except IsogonError as error:
            _log.error("%s", error)
            raise
