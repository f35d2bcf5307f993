"""The report as one HTML page, without scripts or requests to any host."""

from collections import Counter

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill.report.illustrations import UNFAMILIAR, EmbeddingMap, Illustrations
from distill.report.plots import (
    CLASSES,
    corruption_bars,
    cosine_scatter,
    data_uri,
    map_plot,
    score_histogram,
    training_curves,
)
from distill.report.words import (
    cost_words,
    headlines,
    in_both,
    percent,
    scatter_words,
    score_words,
    summary,
    worst_classes,
)
from isogon.bundle.evaluation import Evaluation, auroc_of
from isogon.bundle.worth import gains_of, worth_of


def page(evaluation: Evaluation, drawn: Illustrations) -> str:
    """Return the page; see `distill.report.report_html`."""
    environment = Environment(
        loader=PackageLoader("distill.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, data_uri=data_uri, auroc_of=auroc_of, cost_words=cost_words
    )
    shown = () if drawn.map is None else _shown_classes(drawn.map)
    return environment.get_template("page.html.j2").render(
        evaluation=evaluation,
        drawn=drawn,
        manifest=drawn.manifest,
        worth=worth_of(evaluation),
        gains={gain.name: gain for gain in gains_of(evaluation)},
        classes=worst_classes(evaluation),
        headlines=headlines(evaluation, drawn),
        summary=summary(evaluation, drawn),
        scatter=drawn.cosines and cosine_scatter(drawn.cosines),
        scatter_words=drawn.cosines and scatter_words(drawn.cosines),
        histograms=_histograms(drawn),
        corruptions=_corruptions(evaluation),
        queries=[(query, in_both(query)) for query in drawn.queries],
        maps={} if drawn.map is None else _maps(drawn.map, shown),
        shown=shown,
        training=training_curves(evaluation.training.terms),
    )


def _histograms(drawn: Illustrations) -> list[tuple[str, Markup, str]]:
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
    """Return the classes that get a colour: some of the most frequent, evenly chosen."""
    if not drawn.classes:
        return ()
    counts = Counter(int(label) for label in drawn.labels if label != UNFAMILIAR)
    ranked = sorted(counts.values(), reverse=True)
    enough = ranked[min(CLASSES, len(ranked)) - 1] if ranked else 0
    frequent = sorted(label for label, count in counts.items() if count >= enough)
    step = max(1.0, len(frequent) / CLASSES)
    return tuple(
        frequent[int(place * step)] for place in range(min(CLASSES, len(frequent)))
    )
