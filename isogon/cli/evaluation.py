"""`isogon evaluate` and `isogon compare`: measure students, and print the figures."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from isogon.cli import console
from isogon.cli.console import out
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import add_row, figure_cell, titled

if TYPE_CHECKING:
    from distill.evaluation.comparison import ComparedFigure
    from isogon.api.training import Comparison
    from isogon.bundle import Bundle
    from isogon.bundle.evaluation import Estimate, Evaluation, Fidelity, Kind, Quality

_UNBOUNDED = 10_000  # characters; a table's width without a terminal's limit


def evaluate(
    bundle: BundlePath,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the familiar (in-distribution) images are now. Without it: where "
            "the recipe says.",
            show_default=False,
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where the test images are, if the recipe has a separate source for them.",
            show_default=False,
        ),
    ] = None,
    unfamiliar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:near|far]=SOURCE",
            help="Where a set of unfamiliar (out-of-distribution) images is; a new name "
            "adds a set. May be given several times.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        bool,
        typer.Option(
            help="Evaluate the teacher too. --no-teacher needs no teacher weights, and "
            "measures no fidelity."
        ),
    ] = True,
    corruptions: Annotated[
        bool,
        typer.Option(help="Measure accuracy under the 15 common corruptions."),
    ] = True,
    severity: Annotated[
        Literal["1", "2", "3", "4", "5", "all"],
        typer.Option(help="How strong the corruptions are; `all` takes the mean of 1-5."),
    ] = "3",
    corrupted_images: Annotated[
        int, typer.Option(help="How many test images to corrupt, at most.", min=1)
    ] = 500,
    as_json: AsJson = False,
) -> None:
    """Measure the student again: angles, accuracy, OOD detection, robustness.

    The student's network before training is measured too, if its weights are available:
    distilling has paid only if the student is better.

    The recipe inside the bundle names the images and the teacher. If images have moved,
    name their new place here, by a SOURCE as in a recipe, such as a folder. Test images
    took no part in training. The bundle's `evaluation.json` and `report.html` are
    replaced, and nothing else.

    Angle distortion is the mean |cos student - cos teacher| over pairs of images; 0 is
    perfect. Overlap@10 is the share of the teacher's ten nearest neighbours that the
    student keeps. A `near` unfamiliar set is similar to the familiar images, a `far` one
    is not.
    """
    from isogon import api

    sets = dict(map(_named_set, unfamiliar or []))
    with console.progress() as progress:
        found = api.evaluate(
            bundle,
            images=images,
            test=test,
            unfamiliar=sets,
            teacher=teacher,
            corruptions=corruptions,
            corrupted_images=corrupted_images,
            severities=range(1, 6) if severity == "all" else (int(severity),),
            progress=progress,
        )
    if as_json:
        console.as_json(found.model_dump(mode="json"))
    else:
        show_evaluation(bundle, found, following=f"isogon compare {bundle} OTHER")


def compare(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles' directories.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare the students of several bundles; the best figures are bold.

    Below each student is its network before training, at the same embedding dimension,
    if it was measured: the figures that distilling had to beat. AUROC and FPR95 (with
    unfamiliar images as positive) are of each bundle's own detector, as the mean over the
    near and the far sets. A warning says if bundles were not evaluated on the same images:
    then run `isogon evaluate` on each with the same --images, --test and --unfamiliar.
    """
    from isogon import api

    found = api.compare(*bundles)
    for reason in found.warnings:
        console.note(f"Careful: {reason}")
    if as_json:
        console.as_json(
            {
                "bundles": list(found.subjects),
                "figures": {
                    figure.name: {
                        "better": figure.better,
                        "best": figure.best,
                        "values": figure.values,
                        "intervals": {
                            name: [one.low, one.high]
                            for name, one in figure.intervals.items()
                        },
                    }
                    for figure in found.figures
                },
                "worth": {name: asdict(worth) for name, worth in found.worth.items()},
                "warnings": list(found.warnings),
            }
        )
    else:
        show_comparison(found)


def show_evaluation(path: Path, found: "Evaluation", *, following: str) -> None:
    """Print the figures of an evaluation, where its report is, and the next command."""
    print_evaluation(found, title=str(path))
    out.print(
        f"\nRead {path / 'report.html'} in a browser.\nNext: {following}",
        markup=False,
        soft_wrap=True,
    )


def print_evaluation(found: "Evaluation", *, title: str) -> None:
    """Print whether distilling has paid, then the figures."""
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
    """Print the table with its intervals if it fits the terminal, else without them."""
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
        bundle: if given, the table also shows its architectures and parameters.
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
            cells = [figure_cell(None if one is None else figure(one)) for one in others]
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


def show_comparison(found: "Comparison") -> None:
    """Print the figures of several bundles, the best of each in bold.

    Bundles are rows if that fits the terminal, else columns.
    """
    from distill.evaluation.comparison import baselines

    figures = found.figures
    names = [
        name
        for bundle, (_, evaluation) in found.subjects.items()
        for name in (bundle, *baselines(bundle, evaluation))
    ]
    wide = titled("Students", "bundle", *(figure.name for figure in figures))
    for name in names:
        add_row(wide, name, *(_compared_cell(figure, name) for figure in figures))
    if wide.__rich_measure__(out, out.options).minimum <= out.width:
        out.print(wide)
    else:
        tall = titled("Students", "", *names)
        for figure in figures:
            cells = (_compared_cell(figure, name) for name in names)
            add_row(tall, figure.name, *cells)
        for column in tall.columns:
            column.overflow = "fold"  # show long names in full
        out.print(tall)
    for bundle, worth in found.worth.items():
        out.print(f"\n{bundle}: {worth.sentence}", markup=False, soft_wrap=True)


def _named_set(text: str) -> "tuple[str, tuple[str, Kind | None]]":
    """Parse NAME[:KIND]=SOURCE into the name, and the source with its kind."""
    from isogon.errors import UsageError

    name, given, source = text.partition("=")
    name, colon, kind = name.partition(":")
    if not (name and given and source) or (colon and kind not in ("near", "far")):
        raise UsageError(
            f"Expected --unfamiliar as NAME=SOURCE or NAME:near=SOURCE, got {text!r}; "
            f"write for example --unfamiliar textures:far=data/textures."
        )
    found: Kind | None = "near" if kind == "near" else "far" if kind == "far" else None
    return name, (source, found)


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


def _detectors_table(found: "Evaluation") -> Table:
    """Return the AUROC of every detector, as the mean over each kind of unfamiliar set."""
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


def _compared_cell(figure: "ComparedFigure", name: str) -> Text:
    value = figure.values.get(name)
    shown = "" if value is None else f"{value:,.0f}" if value > 1 else f"{value:.3f}"
    best = len(figure.best) < len(figure.values) and name in figure.best
    return Text(shown, "bold" if best else "", no_wrap=True)
