"""Figures and images as text inside the page: nothing is loaded, nothing is run."""

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from distill.report.placing import SPOTLIT

# Colours of the figures by role. Each is written into the SVG as `var(--role)`, so
# that the page's style sheet decides, for light and for dark.
ROLES = ("ink", "faint", "teacher", "student", "familiar", "unfamiliar")
CLASSES = SPOTLIT  # colours of classes on a map: --class-0 …
_MARKED = {
    name: f"#0e0d{number:02x}"
    for number, name in enumerate([*ROLES, *(f"class-{n}" for n in range(CLASSES))])
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "path.simplify": False,  # dots are lines of length zero
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": _MARKED["faint"],
    "axes.labelcolor": _MARKED["ink"],
    "axes.titlecolor": _MARKED["ink"],
    "text.color": _MARKED["ink"],
    "text.parse_math": False,
    "xtick.color": _MARKED["faint"],
    "ytick.color": _MARKED["faint"],
    "xtick.labelcolor": _MARKED["ink"],
    "ytick.labelcolor": _MARKED["ink"],
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}


def colour(role: str) -> str:
    """Return the colour to draw with, which the page replaces by `var(--role)`."""
    return _MARKED[role]


def svg(
    figure: Figure, *, name: str, alt: str, words: Mapping[str, str] | None = None
) -> Markup:
    """Return the figure as an inline SVG element, the same for the same figure.

    Args:
        figure: drawn under `STYLE`.
        name: unique on the page; ids inside start with it.
        alt: what one sees, in words.
        words: text drawn by placeholder -> the text to show. Words that are not ours
            enter here, so that no font must know them and no markup is read in them.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'xmlns(:xlink)?="[^"]*" ?', "", text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'"[^"]*"', _hundredths, text)  # of a point
    text = re.sub(r"\s*\n\s*", " ", text)
    for role, marked in _MARKED.items():
        text = text.replace(marked, f"var(--{role})")
    shown = words or {}
    text = re.sub(
        r">([a-z-]+-\d+)</text>",
        lambda found: f">{html.escape(shown.get(found[1], found[1]))}</text>",
        text,
    )
    label = f'<svg role="img" aria-label="{html.escape(alt)}" '
    return Markup(text.replace("<svg ", label, 1))


def _hundredths(quoted: re.Match[str]) -> str:
    """Shorten the numbers of an attribute, not those that are printed as text."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", quoted[0])


def data_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return an image as a `data:` address (WebP, about 2 kB for a thumbnail)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
