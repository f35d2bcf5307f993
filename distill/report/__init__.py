"""The report: `report.html`, what a person reads of an evaluation.

Importing this is quick; Matplotlib, Jinja2 and scikit-learn are loaded only when a report
is written or points are placed.
"""

from collections.abc import Sequence

from distill.evaluation import Evaluation
from distill.report.drawn import (
    UNFAMILIAR as UNFAMILIAR,
    CosinePairs as CosinePairs,
    Drawn as Drawn,
    EmbeddingMap as EmbeddingMap,
    Picture as Picture,
    Query as Query,
    Scores as Scores,
    embedding_map as embedding_map,
    sample_cosines as sample_cosines,
    sample_queries as sample_queries,
    thumbnail as thumbnail,
)
from isogon.parity import ParityReport, with_parity


def report_html(
    evaluation: Evaluation, drawn: Drawn, parity: Sequence[ParityReport] = ()
) -> str:
    """Return `report.html`: every figure inline; the same input gives the same text.

    What was not measured has no section, save parity: `export` fills that in. Words that
    come from outside (class names, sets, paths) are escaped, and the page's own policy
    forbids scripts and requests.
    """
    from distill.report.page import page

    return with_parity(page(evaluation, drawn), parity)
