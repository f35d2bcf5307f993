"""What a student is worth, as tables."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from isogon.cli.tables import add_row, figure_cell, titled
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from distill.evaluation import Estimate, Evaluation, Fidelity, Quality
    from isogon.bundle import Bundle

_UNBOUNDED = 10_000  # characters


def evaluation(path: Path, found: "Evaluation", *, following: str) -> None:
    """Print what the student kept of its teacher, and what to do next."""
    print_evaluation(found, title=str(path))
    out.print(
        f"\nRead {path / 'report.html'} in a browser.\nNext: {following}",
        markup=False,
        soft_wrap=True,
    )


def print_evaluation(found: "Evaluation", *, title: str) -> None:
    """Print whether distilling has paid, and the figures."""
    print_worth(found)
    print_figures(found, title=title)


def print_figures(found: "Evaluation", *, title: str) -> None:
    """Print the figures of every model, every detector's, and those under corruptions."""
    print_fitting(lambda intervals: evaluation_table(found, title, intervals=intervals))
    if found.unfamiliar:
        out.print(_detectors_table(found))
    if found.student.corruptions is not None:
        out.print(_corruptions_table(found))


def print_worth(found: "Evaluation") -> None:
    """Print in one sentence whether distilling has paid."""
    from isogon.bundle.worth import worth_of

    out.print(f"{worth_of(found).sentence}\n", markup=False, soft_wrap=True)


def print_fitting(table: Callable[[bool], Table]) -> None:
    """Print the table with its intervals, or without where they would be broken up."""
    whole = table(True)
    wanted = whole.__rich_measure__(out, out.options.update(max_width=_UNBOUNDED)).maximum
    out.print(whole if wanted <= out.width else table(False))


def evaluation_table(
    found: "Evaluation",
    title: str,
    *,
    intervals: bool = True,
    bundle: "Bundle | None" = None,
) -> Table:
    """Return the figures of the teacher, the student and its network before training.

    Args:
        found: the figures.
        title: of the table.
        intervals: whether to show those of the teacher and the student.
        bundle: where given, its models are shown too.
    """
    student, kept = found.student, found.fidelity
    before = {"undistilled": found.undistilled, "closed form": found.start}
    shown = {name: one for name, one in before.items() if one is not None}
    blank = [""] * len(shown)
    if bundle is not None:
        teacher, card = bundle.manifest.teacher, bundle.manifest.student
        title = f"{title}: {card.architecture}, distilled from {teacher.architecture}"
    table = titled(title, "", "teacher", *shown, "student")
    if bundle is not None:
        parameters = f"{teacher.parameters:,}", f"{card.parameters:,}"
        add_row(table, "parameters", parameters[0], *blank, parameters[1])

    def of_angles(name: str, figure: "Callable[[Fidelity], float | None]") -> None:
        ours = None if kept is None else figure(kept)
        if ours is not None:
            others = [one.fidelity for one in shown.values()]
            cells = [_plain(None if one is None else figure(one)) for one in others]
            add_row(table, name, "", *cells, f"{ours:.3f}")

    of_angles("angle distortion", lambda fidelity: fidelity.angle_distortion)
    of_angles("neighbour overlap@10", lambda fidelity: fidelity.neighbour_overlap)
    of_angles("linear CKA", lambda fidelity: fidelity.linear_cka)
    of_angles("recall@10, teacher's index", lambda fidelity: fidelity.teacher_index_recall)

    for name, to_one in found.fidelity_to_each.items():
        figures = f"{to_one.angle_distortion:.3f}, {to_one.neighbour_overlap:.3f}"
        add_row(table, f"distortion, overlap@10 to {name}", "", *blank, figures)

    def of_each(name: str, figure: "Callable[[Quality], Estimate | None]") -> None:
        ours = figure(student)
        theirs = None if found.teacher is None else figure(found.teacher)
        others = [figure(one.quality) for one in shown.values()]
        if ours is not None:
            first, last = (_estimate(one, intervals=intervals) for one in (theirs, ours))
            cells = [_estimate(one, intervals=False) for one in others]
            add_row(table, name, first, *cells, last)

    of_each("kNN accuracy", lambda quality: quality.knn_accuracy)
    of_each("linear probe accuracy", lambda quality: quality.linear_accuracy)
    for name, one in found.unfamiliar.items():
        of_each(
            f"AUROC, {name} ({one.kind})",
            lambda quality, name=name: found.auroc_in_force(quality, name),  # type: ignore[misc]
        )
        if one.flagged is not None:
            flagged = f"{one.flagged:,} of {one.images:,}"
            add_row(table, f"flagged, {name}", "", *blank, flagged)
    table.caption = _caption(found, intervals=intervals)
    table.caption_justify = "left"
    return table


def _caption(found: "Evaluation", *, intervals: bool) -> str:
    caption = f"{found.test_images:,} test images against {found.bank_images:,}"
    if intervals:
        caption += "; 95 % intervals"
    if found.copies is not None and found.copies.images:
        caption += f"; {found.copies.images:,} copies kept apart"
    return f"{caption}; OOD by {found.detector}" if found.unfamiliar else caption


def _estimate(found: "Estimate | None", *, intervals: bool) -> str:
    if found is None:
        return ""
    interval = f" [{found.low:.3f}, {found.high:.3f}]" if intervals else ""
    return f"{found.value:.3f}{interval}"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


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
