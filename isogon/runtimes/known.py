"""All runtimes: each `Runtime` of a module in this package."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from isogon.errors import UsageError
from isogon.runtimes.runner import Runtime


def _runtimes() -> Iterator[Runtime]:
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if f"{__package__}.{found.name}" != __name__:
            module = import_module(f"{__package__}.{found.name}")
            yield from (one for one in vars(module).values() if isinstance(one, Runtime))


RUNTIMES = tuple(_runtimes())


def other_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes that run a file only if they are named."""
    return tuple(runtime for runtime in RUNTIMES if not runtime.usual)


def runtime_for(file: Path, name: str | None = None) -> Runtime:
    """Return the runtime of that name for a file, or the default one.

    Raises:
        UsageError: no runtime of that name opens such a file.
    """
    fitting = [runtime for runtime in RUNTIMES if runtime.suffix == file.suffix]
    for runtime in fitting:
        if runtime.name == name or (name is None and runtime.usual):
            return runtime
    known = ", ".join(runtime.name for runtime in fitting) or "none"
    raise UsageError(
        f"Expected a runtime that opens {file.name}, got {name or file.suffix}. "
        f"Known runtimes: {known}."
    )
