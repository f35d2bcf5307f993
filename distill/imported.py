"""A user's own teacher, found by its import path."""

import importlib
import sys
from pathlib import Path
from typing import Any

from torch import nn

from bundle import UsageError

_ADVICE = (
    "Write `name` in [teacher] as `package.module:factory`; modules in the current folder "
    "and installed ones are found."
)


def module_from_path(name: str) -> tuple[nn.Module, Path | None]:
    """Return the network that `package.module:factory` makes, and its source file.

    The factory is called without arguments.

    Raises:
        UsageError: there is no such module or factory, or it makes something else.
    """
    module_name, _, attribute = name.partition(":")
    module = _imported(module_name, name)
    where = f"{module_name} ({module.__file__})"
    factory = getattr(module, attribute, None)
    if not callable(factory):
        found = "nothing of this name" if factory is None else f"a {type(factory).__name__}"
        raise UsageError(f"Expected a function {attribute!r} in {where}, found {found}.")
    try:
        network = factory()
    except Exception as error:  # of the user's own code
        raise UsageError(f"{name}() failed: {_said(error)}.") from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"Expected {name}() to return a torch.nn.Module, got a "
            f"{type(network).__name__}."
        )
    return network, _source(module)


def source_of(name: str) -> Path | None:
    """Return the source file of the module in `package.module:factory`.

    Raises:
        UsageError: there is no such module, or it cannot be imported.
    """
    return _source(_imported(name.partition(":")[0], name))


def _source(module: Any) -> Path | None:
    return None if module.__file__ is None else Path(module.__file__)


def _imported(module_name: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script's path begins with its own folder
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"There is no module {error.name!r} for the teacher {name}. {_ADVICE}"
            ) from error
        raise UsageError(
            f"Importing {module_name} failed: {error}. Install what it needs."
        ) from error
    except (TypeError, ValueError) as error:  # relative or empty names
        raise UsageError(f"{name!r} is no import path: {error}. {_ADVICE}") from error
    except Exception as error:  # of the user's own code
        raise UsageError(f"Importing {module_name} failed: {_said(error)}.") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:400]}"
