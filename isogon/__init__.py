"""Isogon: distil a vision model, check its exports for parity, detect unfamiliar images.

    import isogon

    bundle = isogon.distill(images="photos/", minutes=30)
    isogon.export(bundle, int8=True)
    model = isogon.load("photos.isogon")
    answers = model.embed(["a.jpg", "b.jpg"])

`isogon.load` needs no torch; a stage is imported when its function is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from isogon.stage_imports import install as _install

_install()

if TYPE_CHECKING:
    from distill.recipe import Recipe as Recipe
    from isogon.api import (
        calibrate as calibrate,
        compare as compare,
        distill as distill,
        diverge as diverge,
        embed as embed,
        evaluate as evaluate,
        export as export,
        inspect as inspect,
        judge as judge,
        load as load,
        pull as pull,
        push as push,
        recipe as recipe,
        serve as serve,
        verify as verify,
    )
    from isogon.bundle import Bundle as Bundle
    from isogon.errors import (
        BundleError as BundleError,
        CheckFailedError as CheckFailedError,
        ImageError as ImageError,
        IsogonError as IsogonError,
        UsageError as UsageError,
    )
    from isogon.model import Answers as Answers, Model as Model

_WHERE = {
    "isogon.api": (
        "calibrate",
        "compare",
        "distill",
        "diverge",
        "embed",
        "evaluate",
        "inspect",
        "export",
        "judge",
        "load",
        "pull",
        "push",
        "recipe",
        "serve",
        "verify",
    ),
    "isogon.bundle": ("Bundle",),
    "isogon.errors": (
        "BundleError",
        "CheckFailedError",
        "ImageError",
        "IsogonError",
        "UsageError",
    ),
    "isogon.model": ("Answers", "Model"),
    "distill.recipe": ("Recipe",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import on first use: `import isogon` is instant."""
    if name in _MODULE_OF:
        if _MODULE_OF[name].startswith("distill"):
            import_module("isogon.stage_imports").require_own("distill")
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
