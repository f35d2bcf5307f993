"""Refuse a misspelt timm name before torch is imported, which takes seconds.

timm's list of models needs torch, and so do the keys of a recipe's objectives. So a name
is looked for in the source of timm's models instead, which is read in half a second: one
that is not in it as a word is no model.
"""

import difflib
import re
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from isogon.bundle import has_timm_source, is_import_path
from isogon.errors import UsageError

_WORD = re.compile(r"\w+")
_MODEL = re.compile(r"@register_model\s+def (\w+)")


def require_model_names(document: dict[str, Any]) -> None:
    """Refuse a teacher or student of a recipe whose name timm's source does not have.

    A name that is in the source and is no model is refused later. So is every name if timm
    is imported already: the caller may have registered models.

    Raises:
        UsageError: names it, and similar models.
    """
    teachers, student = document.get("teacher"), document.get("student")
    tables = [*(teachers if isinstance(teachers, list) else [teachers]), student]
    asked = [
        table.get("name")
        for table in tables
        if isinstance(table, dict) and table.get("path") is None
    ]
    names = [name for name in asked if isinstance(name, str) and _is_plain(name)]
    found = None if "timm" in sys.modules else util.find_spec("timm")
    if found is None or not found.submodule_search_locations or not names:
        return
    folder = Path(found.submodule_search_locations[0]) / "models"
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))
    )
    words = set(_WORD.findall(source))
    for name in names:
        if words and name.partition(".")[0] not in words:
            near = difflib.get_close_matches(name, _MODEL.findall(source), 4, cutoff=0.5)
            raise UsageError(
                f"timm {metadata.version('timm')} has no model named {name!r}. Similar: "
                f"{', '.join(near) or 'none'}. `timm.list_models()` lists all."
            )


def _is_plain(name: str) -> bool:
    """Return whether a name is of timm's own list."""
    return not (has_timm_source(name) or is_import_path(name) or "/" in name)
