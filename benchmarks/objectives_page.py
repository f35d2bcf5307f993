"""The table of `objectives.py`: means and spreads over the seeds."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from distill.evaluation import Evaluation

Figures = dict[str, Callable[[Evaluation], float]]


def table(start: list[Evaluation], found: Mapping[str, list[Evaluation]]) -> str:
    """Return the Markdown table.

    Args:
        start: of the student before training, if that is done.
        found: the evaluations of an objective's seeds that are done, by its name.
    """
    figures = student_figures()
    lines = [
        f"| objective | seeds | {' | '.join(figures)} |",
        "|---" * (len(figures) + 2) + "|",
    ]
    if start:
        lines.append(_row("teacher", [_as_student(start[0])], figures, skip=3))
        lines.append(_row("student before training, 1280 wide", start, figures))
    lines += [_row(name, seeds, figures) for name, seeds in found.items() if seeds]
    return "\n".join(lines)


def student_figures() -> Figures:
    """Return the columns of the table, as functions of an evaluation."""

    def ood(kind: Any) -> Callable[[Evaluation], float]:
        return lambda e: e.mean_auroc(e.student, kind)["mahalanobis"]

    return {
        "angle distortion ↓": lambda e: e.fidelity.angle_distortion,
        "overlap@10 ↑": lambda e: e.fidelity.neighbour_overlap,
        "CKA ↑": lambda e: e.fidelity.linear_cka,
        "kNN ↑": lambda e: e.student.knn_accuracy.value,
        "linear ↑": lambda e: e.student.linear_accuracy.value,
        "near AUROC ↑": ood("near"),
        "far AUROC ↑": ood("far"),
        "corrupted kNN ↑": lambda e: e.student.corruptions.mean_accuracy,
        "s/epoch, least": lambda e: e.training.seconds_per_epoch or math.nan,
    }


def counts(start: list[Evaluation], corrupted: int) -> str:
    """Return how many images the figures rest on; nothing, if that is not known yet."""
    if not start:
        return ""
    images = start[0]
    sets = (f"{n} {s.images:,} ({s.kind})" for n, s in images.unfamiliar.items())
    return (
        f"Bank {images.bank_images:,} training images, {images.test_images:,} test images; "
        f"{', '.join(sets)}; kNN under 15 corruptions at severity 3 of {corrupted} of the "
        f"test images."
    )


def _as_student(evaluation: Evaluation) -> Evaluation:
    assert evaluation.teacher is not None
    return evaluation.model_copy(update={"student": evaluation.teacher})


def _row(name: str, found: list[Evaluation], figures: Figures, *, skip: int = 0) -> str:
    cells = []
    for number, figure in enumerate(figures.values()):
        values = np.array([figure(evaluation) for evaluation in found])
        if number < skip or np.isnan(values).any():
            cells.append("")
        elif number == len(figures) - 1:
            cells.append(f"{values.min():.0f}")  # the others had company on the machine
        else:
            spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}")
    return f"| {name} | {len(found)} | {' | '.join(cells)} |"
