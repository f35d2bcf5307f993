"""The report as one HTML page that asks nothing of any host and runs no script."""

from distill.evaluation import Evaluation
from distill.report.drawn import Drawn


def report_html(evaluation: Evaluation, drawn: Drawn) -> str:
    """Return `report.html`: figures, tables and images inline, deterministic."""
    return "<!doctype html>"
