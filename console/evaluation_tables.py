"""What a student is worth, as tables."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from console.tables import add_row, figure_cell, titled
from console.terminal import out

if TYPE_CHECKING:
    from bundle import Bundle
    from distill.evaluation import Estimate, Evaluation, Quality


def evaluation(path: Path, found: "Evaluation", *, following: str) -> None:
    """Print what the student kept of its teacher, and what to do next."""
    print_evaluation(found, title=str(path))
    out.print(
        f"\nRead {path / 'report.html'} in a browser.\nNext: {following}",
        markup=False,
        soft_wrap=True,
    )


def print_evaluation(found: "Evaluation", *, title: str) -> None:
    """Print the figures, every detector's, and those under corruptions."""
    out.print(evaluation_table(found, title=title))
    if found.unfamiliar:
        out.print(_detectors_table(found))
    if found.student.corruptions is not None:
        out.print(_corruptions_table(found))


def evaluation_table(
    found: "Evaluation", *, title: str, bundle: "Bundle | None" = None
) -> Table:
    """Return the figures of teacher and student; with `bundle`, its models too."""
    table = titled(title, "", "teacher", "student")
    if bundle is not None:
        manifest = bundle.manifest
        add_row(
            table, "model", manifest.teacher.architecture, manifest.student.architecture
        )
        add_row(
            table,
            "parameters",
            f"{manifest.teacher.parameters:,}",
            f"{manifest.student.parameters:,}",
        )
    teacher, student, kept = found.teacher, found.student, found.fidelity
    if kept is not None:
        add_row(table, "angle distortion", "", f"{kept.angle_distortion:.3f}")
        add_row(table, "neighbour overlap@10", "", f"{kept.neighbour_overlap:.3f}")
        if kept.linear_cka is not None:
            add_row(table, "linear CKA", "", f"{kept.linear_cka:.3f}")
        if kept.teacher_index_recall is not None:
            add_row(
                table, "recall@10, teacher's index", "", f"{kept.teacher_index_recall:.3f}"
            )

    for name, one_kept in found.fidelity_to_each.items():
        distortion, overlap = one_kept.angle_distortion, one_kept.neighbour_overlap
        add_row(
            table,
            f"distortion, overlap@10 to {name}",
            "",
            f"{distortion:.3f}, {overlap:.3f}",
        )

    def both(name: str, figure: "Callable[[Quality], Estimate | None]") -> None:
        ours, theirs = figure(student), None if teacher is None else figure(teacher)
        if ours is not None:
            add_row(table, name, _estimate(theirs), _estimate(ours))

    both("kNN accuracy", lambda quality: quality.knn_accuracy)
    both("linear probe accuracy", lambda quality: quality.linear_accuracy)
    for name, one in found.unfamiliar.items():
        both(
            f"OOD AUROC, {name} ({one.kind})",
            lambda quality, name=name: _in_force(found, quality, name),  # type: ignore[misc]
        )
    table.caption = _caption(found)
    table.caption_justify = "left"
    return table


def _in_force(found: "Evaluation", quality: "Quality", name: str) -> "Estimate | None":
    figures = quality.ood.get(name, {}).get(found.detector)
    return None if figures is None else figures.auroc


def _caption(found: "Evaluation") -> str:
    caption = (
        f"{found.test_images:,} test images against {found.bank_images:,}; 95 % intervals"
    )
    return f"{caption}; OOD by {found.detector}" if found.unfamiliar else caption


def _estimate(found: "Estimate | None") -> str:
    if found is None:
        return ""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _detectors_table(found: "Evaluation") -> Table:
    """AUROC of every detector: the mean over each kind of unfamiliar set."""
    kinds = found.kinds()
    columns = [f"{kind}, {role}" for kind in kinds for role in ("teacher", "student")]
    table = titled("OOD AUROC by detector", "", *columns)
    cells = [
        {} if quality is None else found.mean_auroc(quality, kind)
        for kind in kinds
        for quality in (found.teacher, found.student)
    ]
    best = [max(column.values(), default=None) for column in cells]
    for detector in {name: None for column in cells for name in column}:
        shown = [
            figure_cell(column.get(detector), best=column.get(detector) == highest)
            for column, highest in zip(cells, best, strict=True)
        ]
        mark = " (the recipe's)" if detector == found.detector else ""
        add_row(table, f"{detector}{mark}", *shown)
    table.caption = "; ".join(
        f"{kind}: {', '.join(names)}" for kind, names in kinds.items()
    )
    table.caption_justify = "left"
    return table


def _corruptions_table(found: "Evaluation") -> Table:
    ours = found.student.corruptions
    assert ours is not None
    theirs = None if found.teacher is None else found.teacher.corruptions
    severities = ", ".join(map(str, ours.severities))
    table = titled("kNN accuracy under corruptions", "", "teacher", "student")
    table.caption = f"severity {severities}; {ours.images:,} images"
    table.caption_justify = "left"
    add_row(
        table,
        "none",
        figure_cell(None if theirs is None else theirs.clean_accuracy),
        figure_cell(ours.clean_accuracy),
    )
    for name, accuracy in ours.accuracy.items():
        before = None if theirs is None else theirs.accuracy[name]
        add_row(table, name.replace("_", " "), figure_cell(before), figure_cell(accuracy))
    table.add_section()
    mean = None if theirs is None else theirs.mean_accuracy
    add_row(table, "mean", figure_cell(mean), figure_cell(ours.mean_accuracy))
    return table
