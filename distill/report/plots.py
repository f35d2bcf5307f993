"""The report's figures: drawn without pyplot, and written into the page as SVG."""

import base64
import html
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from distill.report.illustrations import (
    SPOTLIT,
    UNFAMILIAR,
    CosinePairs,
    EmbeddingMap,
    PlottedScores,
)
from isogon.bundle.evaluation import Corruptions

# Colours of the figures by role. The SVG has `var(--role)` for each, so the page's style
# sheet sets the colours, for light and for dark mode.
ROLES = ("ink", "faint", "teacher", "student", "familiar", "unfamiliar")
CLASSES = SPOTLIT  # number of class colours on a map: --class-0 …
_MARKED = {
    name: f"#0e0d{number:02x}"
    for number, name in enumerate([*ROLES, *(f"class-{n}" for n in range(CLASSES))])
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, selectable, in the page's font
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
_WIDTH = 5.0  # inches; about 480 pixels on the page
_MID_BLUE = "#4a8fc7"  # of dots drawn as pixels; visible in light and dark mode


def cosine_scatter(pairs: CosinePairs) -> Markup:
    """Draw the student's cosine over the teacher's, with its median and the diagonal."""
    lowest = float(min(pairs.teacher.min(), pairs.student.min()))
    limits = (lowest - 0.02, 1.02)
    with rc_context(STYLE):
        figure, axes = _panel(height=4.4)
        axes.plot(
            pairs.teacher, pairs.student, "o", markersize=2.2, markeredgewidth=0,
            color=_MID_BLUE, alpha=0.35, rasterized=True,
        )  # fmt: skip
        axes.plot(limits, limits, color=colour("ink"), linewidth=0.9, dashes=(4, 3))
        middle, quantiles = _bands(pairs)
        axes.plot(middle, quantiles[1], color=colour("student"), linewidth=2)
        for quantile in (quantiles[0], quantiles[2]):
            axes.plot(middle, quantile, color=colour("student"), linewidth=0.9)
        axes.set(
            xlim=limits, ylim=limits, aspect="equal",
            xlabel="teacher's cosine", ylabel="student's cosine",
        )  # fmt: skip
        figure.set_dpi(200)
        return svg(
            figure,
            name="cosines",
            alt="Scatter plot of the student's cosine over the teacher's cosine for "
            f"{len(pairs.teacher):,} image pairs, with the diagonal of equality and the "
            "student's median.",
        )


def score_histogram(scores: PlottedScores, unfamiliar: str, number: int) -> Markup:
    """Draw the OOD scores of the test images and of one unfamiliar set."""
    others = scores.unfamiliar[unfamiliar]
    both = np.concatenate([scores.familiar, others])
    both = both[np.isfinite(both)]
    low, high = np.percentile(both, [0.5, 99.5]) if len(both) else (0.0, 1.0)
    low, high = min(low, scores.threshold), max(high, scores.threshold)
    fewest = min(len(scores.familiar), len(others))
    width = (high - low) / np.clip(2 * np.sqrt(fewest), 24, 60) or 1e-3
    # The threshold is an edge between two bins, so no bin is partly flagged.
    below, above = (np.ceil(abs(scores.threshold - end) / width) + 1 for end in (low, high))
    edges = scores.threshold + width * np.arange(-below, above + 1)
    with rc_context(STYLE):
        figure, axes = _panel(height=2.5)
        for role, values in (("familiar", scores.familiar), ("unfamiliar", others)):
            inside = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
            counts, _ = np.histogram(inside, edges)
            shares = counts / max(len(values), 1)
            axes.stairs(shares, edges, fill=True, color=colour(role), alpha=0.28)
            axes.stairs(shares, edges, color=colour(role), linewidth=1.3)
        axes.axvline(scores.threshold, color=colour("ink"), linewidth=1, dashes=(4, 3))
        axes.annotate(
            "flagged →", (scores.threshold, 1), xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2), textcoords="offset points", verticalalignment="bottom",
        )  # fmt: skip
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        axes.set(xlabel="OOD score (larger: less familiar)", ylabel="share of images")
        axes.margins(x=0)
        return svg(
            figure,
            name=f"scores-{number}",
            alt=f"Histogram of OOD scores: {len(scores.familiar):,} familiar test images "
            f"and {len(others):,} images of {unfamiliar}, with the threshold.",
        )


def corruption_bars(student: Corruptions, teacher: Corruptions | None) -> Markup:
    """Draw the accuracy under each corruption, largest first, and the clean accuracy."""
    names = sorted(student.accuracy, key=lambda name: -student.accuracy[name])
    models = {"student": student} if teacher is None else {
        "teacher": teacher, "student": student,
    }  # fmt: skip
    thickness = 0.8 / len(models)
    places = np.arange(len(names), dtype=float)
    with rc_context(STYLE):
        figure, axes = _panel(height=0.7 + 0.27 * len(names))
        for order, (role, figures) in enumerate(models.items()):
            offset = (order - (len(models) - 1) / 2) * thickness
            values = [figures.accuracy.get(name, np.nan) for name in names]
            axes.barh(places + offset, values, height=thickness * 0.88, color=colour(role))
            axes.axvline(
                figures.clean_accuracy, color=colour(role), linewidth=1.2, dashes=(4, 3)
            )
        axes.set_yticks(places, [name.replace("_", " ") for name in names])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="kNN accuracy (dashed: uncorrupted)")
        axes.margins(y=0.01)
        return svg(
            figure,
            name="corruptions",
            alt=f"Bars of kNN accuracy under {len(names)} corruptions; the table below "
            "holds the numbers.",
        )


def training_curves(terms: tuple[Mapping[str, float], ...]) -> list[Markup]:
    """Draw the total loss and each of its terms over the epochs, one figure each."""
    names = sorted({name for epoch in terms for name in epoch})
    curves = {name: [epoch.get(name, np.nan) for epoch in terms] for name in names}
    if len(names) > 1:
        curves = {"total": [sum(epoch.values()) for epoch in terms], **curves}
    epochs = np.arange(1, len(terms) + 1)
    marker = "o" if len(terms) < 15 else None
    drawn = []
    for number, (name, values) in enumerate(curves.items()):
        with rc_context(STYLE):
            figure, axes = _panel(width=2.7, height=1.9)
            axes.plot(
                epochs, values, marker=marker, linestyle="-", markersize=3,
                color=colour("student"), linewidth=1.5,
            )  # fmt: skip
            axes.set_title(name.replace("_", " "), loc="left", weight="bold")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel("epoch")
            alt = f"Curve of the {name} loss over {len(terms)} epochs, from "
            alt += f"{values[0]:.3g} to {values[-1]:.3g}."
            drawn.append(svg(figure, name=f"training-{number}", alt=alt))
    return drawn


def map_plot(
    points: Float[np.ndarray, "n 2"], drawn: EmbeddingMap, shown: tuple[int, ...], role: str
) -> Markup:
    """Draw one model's map; the classes `shown` in their colours.

    Their names are written into the map only if these are all classes.
    """
    named = shown if len(shown) == len(drawn.classes) else ()
    other = (drawn.labels != UNFAMILIAR) & ~np.isin(drawn.labels, shown)
    words: dict[str, str] = {}
    with rc_context(STYLE):
        figure, axes = _panel(height=4.6)
        plain = "faint" if drawn.classes else "familiar"
        _dots(axes, points[other], colour(plain), size=2.4)
        outside = points[drawn.labels == UNFAMILIAR]
        axes.plot(
            *outside.T, "x", markersize=3, markeredgewidth=0.8, color=colour("ink"),
            alpha=0.5,
        )  # fmt: skip
        for number, label in enumerate(shown):
            own = points[drawn.labels == label]
            _dots(axes, own, colour(f"class-{number % CLASSES}"), size=3.6)
        for number, label in enumerate(named):
            own = points[drawn.labels == label]
            placeholder = f"class-name-{number}"
            words[placeholder] = _short(drawn.classes[label])
            x, y = _centre(own)
            axes.text(x, y, placeholder, ha="center", va="center", size=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        return svg(
            figure,
            name=f"map-{role}",
            alt=f"Map of the {role}'s embeddings: {len(points) - len(outside):,} test "
            f"images and {len(outside):,} unfamiliar images as points in the plane.",
            words=words,
        )


def data_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return an image as a `data:` address (WebP, about 2 kB for a thumbnail)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg(
    figure: Figure, *, name: str, alt: str, words: Mapping[str, str] | None = None
) -> Markup:
    """Return the figure as an inline SVG element; the same figure gives the same text.

    Args:
        figure: drawn under `STYLE`.
        name: unique on the page; ids inside start with it.
        alt: a description, for screen readers.
        words: from a placeholder in the figure to the text that replaces it. Text from
            outside is inserted here, so that fonts need not have its characters and it
            is not read as markup.
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


def colour(role: str) -> str:
    """Return the colour to draw with, which the page replaces by `var(--role)`."""
    return _MARKED[role]


def _hundredths(quoted: re.Match[str]) -> str:
    """Round the numbers of an attribute; numbers in text are not changed."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", quoted[0])


def _panel(*, height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _bands(
    pairs: CosinePairs,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, "3 bins"]]:
    """Return the student's 10, 50 and 90 % quantiles along the teacher's cosine.

    All bins hold the same number of pairs.
    """
    order = np.argsort(pairs.teacher, kind="stable")
    groups = np.array_split(order, min(24, max(1, len(order) // 20)))
    middle = [float(np.median(pairs.teacher[group])) for group in groups]
    found = [np.percentile(pairs.student[group], [10, 50, 90]) for group in groups]
    return np.asarray(middle, dtype=float), np.asarray(found, dtype=float).T


def _dots(axes: Axes, points: Float[np.ndarray, "n 2"], paint: str, size: float) -> None:
    """Draw points as one path of zero-length lines with round ends: a third of the text."""
    gap = np.full(len(points), np.nan)
    x, y = (np.stack([line, line, gap], axis=1).ravel() for line in points.T)
    axes.plot(x, y, color=paint, linewidth=size, solid_capstyle="round")


def _centre(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " 2"]:
    """Return the point nearest to the median; unlike the median it is among the points."""
    distances = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    nearest: Float[np.ndarray, " 2"] = points[distances.argmin()]
    return nearest


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
