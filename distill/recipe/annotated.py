"""A recipe as a file to be read and changed: above every key what it means."""

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

from distill.recipe.defaults import Default
from distill.recipe.keys import meanings
from distill.recipe.written import written

_WIDTH = 92
_OPENING = """\
# Run it: isogon distill THIS_FILE
# A key that is left out has its default; recipes/keys.md has them all.

"""


def annotated(document: dict[str, Any], taken: Iterable[Default] = ()) -> str:
    """Return TOML that reads back as `document`, with the meaning of each key above it.

    Args:
        document: as parsed from TOML.
        taken: what was filled in; each reason stands behind its value.
    """
    known = meanings()
    lines: list[str] = []
    section = ""
    for line in written(document, taken).splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            meaning = known.get((section, line.split(" = ")[0]), "")
            lines += [f"# {part}" for part in wrap(meaning, _WIDTH - 2)]
        lines.append(line)
    return _OPENING + "\n".join(lines) + "\n"
