"""Names of networks, images and weights that are valid on another machine too.

A bundle is shipped, and an absolute path would reveal the names of a person and a machine.
"""

import os
import re
from pathlib import Path

# Where timm finds models besides its own list: `hf-hub:org/name`, `local-dir:/path`.
_TIMM_SOURCES = ("hf-hub", "hf_hub", "local-dir")

# A prefix of a path names its format.
_PREFIXED = re.compile(r"((?:wds|hfds)/|local-dir:)?(.*)", re.DOTALL)
_PATTERN = frozenset("{*:[")  # a name with one of these is a pattern of files


def has_timm_source(name: str) -> bool:
    """Whether timm finds this model on a hub or in a folder."""
    source, colon, _ = name.partition(":")
    return bool(colon) and source.lower() in _TIMM_SOURCES


def is_import_path(name: str) -> bool:
    """Whether this is `package.module:factory`, a network of the user's own."""
    return ":" in name and not has_timm_source(name)


def portable_place(text: str, folder: Path) -> str:
    """Return a place of a recipe with an absolute path made relative to `folder`.

    A path below the home folder becomes `~/…`, unless `folder` is below it too. A relative
    path, or a text that is not a path, is returned unchanged.
    """
    prefix, place = _parts(text)
    path = Path(place)
    if not path.is_absolute():
        return text
    home, seen_from = Path.home(), folder.absolute()
    if path.is_relative_to(home) and not seen_from.is_relative_to(home):
        return f"{prefix}~/{path.relative_to(home)}"
    seen = os.path.relpath(path, seen_from)
    return f"{prefix}{seen if seen.startswith(os.pardir) else f'./{seen}'}"


def found_place(text: str, folder: Path) -> str:
    """Return the inverse: a path relative to `folder`, unless it exists from here."""
    prefix, place = _parts(text)
    if Path(place).parts[:1] != ("..",) and not place.startswith("./"):
        return text
    return text if _is_there(Path(place)) else f"{prefix}{folder / place}"


def _parts(text: str) -> tuple[str, str]:
    prefix, place = _PREFIXED.fullmatch(text).groups(default="")  # type: ignore[union-attr]
    return prefix, place


def _is_there(path: Path) -> bool:
    return path.exists() or (path.parent.is_dir() and not _PATTERN.isdisjoint(path.name))
