"""Networks, images and weights by names that hold on another machine.

An absolute path holds the names of a person and of a machine, and a bundle is shipped.
"""

import os
import re
from pathlib import Path

# Where timm finds a model beside its own list: `hf-hub:org/name`, `local-dir:/path`.
_TIMM_SOURCES = ("hf-hub", "hf_hub", "local-dir")


def has_timm_source(name: str) -> bool:
    """Whether timm finds this model on a hub or in a folder."""
    source, colon, _ = name.partition(":")
    return bool(colon) and source.lower() in _TIMM_SOURCES


def is_import_path(name: str) -> bool:
    """Whether this is `package.module:factory`, a network of the user's own."""
    return ":" in name and not has_timm_source(name)


# What may stand in front of a path: how it is read.
_PREFIXED = re.compile(r"((?:wds|hfds)/|local-dir:)?(.*)", re.DOTALL)
_PATTERN = frozenset("{*:[")  # a name with one of these means files, or a part of one


def portable_place(text: str, folder: Path) -> str:
    """Return a place that a recipe names, an absolute path as seen from `folder`.

    One below the home is seen from there (`~/photos`), unless the folder is as well.
    What is relative already, or no path, stays as it is.
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
    """Return the place for use here: seen from `folder`, if not from the current one."""
    prefix, place = _parts(text)
    if Path(place).parts[:1] != ("..",) and not place.startswith("./"):
        return text
    return text if _is_there(Path(place)) else f"{prefix}{folder / place}"


def _parts(text: str) -> tuple[str, str]:
    prefix, place = _PREFIXED.fullmatch(text).groups(default="")  # type: ignore[union-attr]
    return prefix, place


def _is_there(path: Path) -> bool:
    return path.exists() or (path.parent.is_dir() and not _PATTERN.isdisjoint(path.name))
