"""Serving: a bundle's vouched artifact answers over HTTP. No torch, no other stage."""

import os
from typing import TYPE_CHECKING, Any

# Set before BentoML is imported, or it reports every command to its makers.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

if TYPE_CHECKING:
    from serving.process import (
        running_service as running_service,
        serve as serve,
    )


def __getattr__(name: str) -> Any:
    """Import on first use: `serving.client` needs no server and no runtime."""
    if name in {"running_service", "serve"}:
        from serving import process

        return getattr(process, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
