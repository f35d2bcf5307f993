"""Serving: a bundle's vouched artifact over HTTP. No torch, no other stage."""

from serving.process import (
    running_service as running_service,
    serve as serve,
)
