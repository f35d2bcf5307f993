"""Settings that hold several values in one environment variable."""

import re
from dataclasses import dataclass
from pathlib import Path

from isogon.errors import UsageError
from serving.stored import bundle_path, split_places

Origin = str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a model's bundle is, and what to call it if not what the bundle says."""

    path: Path
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" if self.name is None else f"{self.name}={self.path}"


def sources_from(value: object) -> tuple[Source, ...]:
    """Return the sources of `[NAME=]PATH` texts: one, several, or joined by `os.pathsep`.

    A path may be `bentoml:NAME[:VERSION]` too, see `bundle_path`.

    Raises:
        ValueError: there is none.
        UsageError: BentoML's store has no such model, or a name is not of that form.
    """
    if isinstance(value, str):
        value = split_places(value)
    parts = value if isinstance(value, list | tuple) else [value]
    found = tuple(_source(part) for part in parts if part)
    if not found:
        raise ValueError("expected a bundle's directory")
    return found


def keys_from(value: object) -> tuple[object, ...]:
    """Return the keys of a comma-separated text.

    Raises:
        ValueError: a key is missing, or could not travel in a header. Its message does
            not repeat what was given.
    """
    keys = _separated(value)
    none = isinstance(value, str) and not keys  # set, but empty: open by mistake
    if none or not all(re.fullmatch(r"[!-~]+", str(key)) for key in keys):
        raise ValueError(
            "expected keys of ASCII letters, digits and signs, without spaces in them, "
            "separated by commas; unset the variable to ask for no key"
        )
    return keys


def origins_from(value: object) -> tuple[object, ...]:
    """Return the origins of a comma-separated text.

    Raises:
        ValueError: one is no origin: scheme, host and port, or `*` for any.
    """
    origins = _separated(value)
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s?#]+", str(origin)):
            raise ValueError(
                f"expected origins such as https://app.example:8443 without a path, "
                f"separated by commas, found {origin!r} among them"
            )
    return origins


def _separated(value: object) -> tuple[object, ...]:
    if isinstance(value, list | tuple):
        return tuple(value)
    return tuple(part.strip() for part in str(value).split(",") if part.strip())


def _source(value: object) -> Source:
    if isinstance(value, Source):
        return value
    text = str(value)
    name, mark, path = text.partition("=")
    if mark and path and re.fullmatch(r"[\w.-]+", name):
        return Source(name=name, path=bundle_path(path))
    if mark and "/" not in name and not Path(text).exists():
        raise UsageError(
            f"Expected a directory or NAME=DIRECTORY, the name of letters, digits, "
            f"`.`, `_` and `-`, got {text!r}."
        )
    return Source(path=bundle_path(text))
