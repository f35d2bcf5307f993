"""The report: `report.html`, an evaluation as a page for people.

Importing this package is quick: Matplotlib, Jinja2 and scikit-learn are loaded when a
report is written or a map is computed.
"""

from collections.abc import Sequence

from distill.report.illustrations import (
    UNFAMILIAR as UNFAMILIAR,
    CosinePairs as CosinePairs,
    EmbeddingMap as EmbeddingMap,
    Illustrations as Illustrations,
    Picture as Picture,
    PlottedScores as PlottedScores,
    Query as Query,
    embedding_map as embedding_map,
    report_thumbnail as report_thumbnail,
    sample_cosines as sample_cosines,
    sample_queries as sample_queries,
)
from isogon.bundle.evaluation import Evaluation
from isogon.parity import ParityReport, with_parity


def report_html(
    evaluation: Evaluation, drawn: Illustrations, parity: Sequence[ParityReport] = ()
) -> str:
    """Return `report.html`: every figure inline; the same input gives the same text.

    What was not measured has no section. Parity always has one: `export` fills it in. Text
    from outside (class names, sets, paths) is escaped, and the page's content security
    policy forbids scripts and requests.
    """
    from distill.report.html_page import page

    return with_parity(page(evaluation, drawn), parity)
