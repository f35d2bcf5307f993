"""The report as one HTML page that asks nothing of any host and runs no script."""

from collections import Counter

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill.evaluation import Evaluation
from distill.report.drawn import UNFAMILIAR, Drawn, EmbeddingMap
from distill.report.inline import CLASSES, data_uri
from distill.report.plots import (
    corruption_bars,
    cosine_scatter,
    map_plot,
    score_histogram,
    training_curves,
)
from distill.report.words import (
    headlines,
    kept,
    percent,
    scatter_words,
    score_words,
    summary,
)


def report_html(evaluation: Evaluation, drawn: Drawn) -> str:
    """Return `report.html`: every figure inline; the same input gives the same text.

    What was not measured has no section. Words that come from outside (class names,
    sets, paths) are escaped, and the page's own policy forbids scripts and requests.
    """
    environment = Environment(
        loader=PackageLoader("distill.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, data_uri=data_uri)
    shown = () if drawn.map is None else _shown_classes(drawn.map)
    return environment.get_template("page.html.j2").render(
        evaluation=evaluation,
        drawn=drawn,
        manifest=drawn.manifest,
        headlines=headlines(evaluation, drawn),
        summary=summary(evaluation, drawn),
        scatter=drawn.cosines and cosine_scatter(drawn.cosines),
        scatter_words=drawn.cosines and scatter_words(drawn.cosines),
        histograms=_histograms(drawn),
        corruptions=_corruptions(evaluation),
        queries=[(query, kept(query)) for query in drawn.queries],
        maps={} if drawn.map is None else _maps(drawn.map, shown),
        shown=shown,
        training=evaluation.training.terms and training_curves(evaluation.training.terms),
    )


def _histograms(drawn: Drawn) -> list[tuple[str, Markup, str]]:
    scores = drawn.scores
    if scores is None:
        return []
    return [
        (name, score_histogram(scores, name, number), score_words(scores, name))
        for number, name in enumerate(scores.unfamiliar)
    ]


def _corruptions(evaluation: Evaluation) -> Markup | None:
    ours = evaluation.student.corruptions
    if ours is None or not ours.accuracy:
        return None
    teacher = evaluation.teacher
    return corruption_bars(ours, None if teacher is None else teacher.corruptions)


def _maps(drawn: EmbeddingMap, shown: tuple[int, ...]) -> dict[str, Markup]:
    both = {"teacher": drawn.teacher, "student": drawn.student}
    return {
        role: map_plot(points, drawn, shown, role)
        for role, points in both.items()
        if points is not None
    }


def _shown_classes(drawn: EmbeddingMap) -> tuple[int, ...]:
    """Return the classes that get a colour: the most frequent ones, in their order."""
    if not drawn.classes:
        return ()
    counts = Counter(int(label) for label in drawn.labels if label != UNFAMILIAR)
    frequent = sorted(counts, key=lambda label: (-counts[label], label))
    return tuple(sorted(frequent[:CLASSES]))
