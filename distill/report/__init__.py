"""The report: `report.html`, what a person reads of an evaluation.

Matplotlib, Jinja2 and scikit-learn are imported only when a report is made.
"""

from distill.report.drawn import (
    UNFAMILIAR as UNFAMILIAR,
    CosinePairs as CosinePairs,
    Drawn as Drawn,
    EmbeddingMap as EmbeddingMap,
    Picture as Picture,
    Query as Query,
    Scores as Scores,
)
from distill.report.page import report_html as report_html
from distill.report.sampling import (
    embedding_map as embedding_map,
    sample_cosines as sample_cosines,
    thumbnail as thumbnail,
)
