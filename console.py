"""What the command line shows: results on stdout, progress and errors on stderr."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bundle import Bundle, Manifest, ParityReport
    from distill.evaluation import Estimate, Evaluation, Quality
    from distill.evaluation.comparison import Figure

_STYLE: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "min_width": 60}

_out = Console(highlight=False, emoji=False)
_err = Console(stderr=True, highlight=False, emoji=False)
# The further processes of a run on several devices leave the talking to the first.
_follower = os.environ.get("LOCAL_RANK", "0") != "0"
_aside = Console(stderr=True, highlight=False, emoji=False, quiet=_follower)


def progress() -> Progress:
    """Return progress bars with the work done, the time spent and the time left."""
    return Progress(
        TextColumn("{task.description:32}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=_aside,
        refresh_per_second=2,  # a refresh takes a millisecond, from the training too
    )


@contextmanager
def loading(bars: Progress) -> Iterator[None]:
    """Show that imports are under way: torch and its kin take seconds."""
    task = bars.add_task("Loading PyTorch", total=None)
    yield
    bars.remove_task(task)


def note(text: str) -> None:
    """Say something that is not a result."""
    _aside.print(text, markup=False, soft_wrap=True)


def failure(error: Exception) -> None:
    """Say what went wrong, the table of a failed gate first."""
    report = getattr(error, "report", None)
    if report is not None:
        _err.print(_parity_table(report))
    _aside.print("[bold red]Error[/]", end=" ")
    _aside.print(str(error), markup=False, soft_wrap=True)


def as_json(document: Any) -> None:
    """Print a result for machines."""
    print(json.dumps(document, indent=2))


def evaluation(path: Path, found: "Evaluation", *, following: str) -> None:
    """Print what the student kept of its teacher, and what to do next."""
    _print_evaluation(found, title=str(path))
    _out.print(
        f"\nRead {path / 'report.html'} in a browser.\nNext: {following}",
        markup=False,
        soft_wrap=True,
    )


def comparison(subjects: "Mapping[str, tuple[Manifest, Evaluation]]") -> None:
    """Print the figures of several bundles, the best of each in bold."""
    from distill.evaluation.comparison import compared

    figures = compared(subjects)
    wide = _table("Students", "bundle", *(figure.name for figure in figures))
    for name in subjects:
        _row(wide, name, *(_compared_cell(figure, name) for figure in figures))
    if wide.__rich_measure__(_out, _out.options).minimum <= _out.width:
        _out.print(wide)
        return
    tall = _table("Students", "", *subjects)
    for figure in figures:
        _row(tall, figure.name, *(_compared_cell(figure, name) for name in subjects))
    _out.print(tall)


def parity(report: "ParityReport") -> None:
    """Print a parity report that passed."""
    _out.print(_parity_table(report))


def inspection(
    bundle: "Bundle", found: "Evaluation", reports: list["ParityReport"]
) -> None:
    """Print where a bundle comes from, what it is worth and what it holds."""
    manifest = bundle.manifest
    facts = Table(title=escape(manifest.name), show_header=False, **_STYLE)
    _row(facts, "student", f"{manifest.student.architecture}, {manifest.width} wide")
    _row(facts, "teacher", f"{manifest.teacher.architecture} ({manifest.teacher.weights})")
    _row(facts, "teacher's licence", manifest.teacher.licence)
    crop = manifest.preprocessing
    _row(facts, "pixels", f"{crop.height} x {crop.width}, crop {crop.crop:g}")
    provenance = manifest.provenance
    _row(facts, "images", f"{provenance.images} ({provenance.image_count:,})")
    _row(facts, "made", provenance.created)
    for package, version in provenance.versions.items():
        _row(facts, package, version)
    _out.print(facts)
    _print_evaluation(found, title="Evaluation")
    for report in reports:
        _out.print(_parity_table(report))
    files = _table("Files, all intact", "file", "stage", "bytes", "SHA-256")
    for name, entry in manifest.files.items():
        _row(files, name, entry.stage, f"{entry.bytes:,}", f"{entry.sha256[:12]}…")
    _out.print(files)


def quickstart(
    bundle: "Bundle",
    report: "ParityReport",
    found: "Evaluation",
    *,
    latencies: dict[str, float],
    examples: tuple[Path, ...],
    answers: list[dict[str, Any]],
) -> None:
    """Print the whole chain's figures and the commands to go on with."""
    table = _evaluation_table(found, title=f"{bundle.path}", bundle=bundle)
    figures = report.figures
    table.add_section()
    _row(table, "parity: minimum cosine", "", f"{figures.min_cosine:.7f}")
    _row(table, "parity: largest error", "", f"{figures.max_abs_error:.1e}")
    _row(table, "parity: neighbours kept", "", f"{figures.neighbour_agreement:.4f}")
    _row(table, "parity: same decisions", "", f"{figures.decision_agreement:.4f}")
    for name, milliseconds in latencies.items():
        _row(table, f"latency, {name}", "", f"{milliseconds:.2f} ms")
    table.add_section()
    for kind, image, ood in zip(("familiar", "unfamiliar"), examples, answers, strict=True):
        verdict = "unfamiliar" if ood["is_ood"] else "familiar"
        _row(table, f"{kind}: {image.name}", "", f"p = {ood['p_value']:.4f}, {verdict}")
    _out.print(table)
    _out.print(
        f"\nNext:\n"
        f"  isogon serve {bundle.path}\n"
        f"  curl -F images=@{examples[1]} localhost:3000/v1/embed\n"
        f"  isogon inspect {bundle.path}\n"
        f"  isogon quickstart --images YOUR_FOLDER --output yours.isogon",
        markup=False,
        soft_wrap=True,
    )


def _print_evaluation(found: "Evaluation", *, title: str) -> None:
    _out.print(_evaluation_table(found, title=title))
    if found.unfamiliar:
        _out.print(_detectors_table(found))
    if found.student.corruptions is not None:
        _out.print(_corruptions_table(found))


def _evaluation_table(
    found: "Evaluation", *, title: str, bundle: "Bundle | None" = None
) -> Table:
    table = _table(title, "", "teacher", "student")
    if bundle is not None:
        manifest = bundle.manifest
        _row(table, "model", manifest.teacher.architecture, manifest.student.architecture)
        _row(
            table,
            "parameters",
            f"{manifest.teacher.parameters:,}",
            f"{manifest.student.parameters:,}",
        )
    teacher, student, kept = found.teacher, found.student, found.fidelity
    if kept is not None:
        _row(table, "angle distortion", "", f"{kept.angle_distortion:.3f}")
        _row(table, "neighbour overlap@10", "", f"{kept.neighbour_overlap:.3f}")
        _row(table, "linear CKA", "", f"{kept.linear_cka:.3f}")
        if kept.teacher_index_recall is not None:
            _row(
                table, "recall@10, teacher's index", "", f"{kept.teacher_index_recall:.3f}"
            )

    def both(name: str, figure: "Callable[[Quality], Estimate | None]") -> None:
        ours, theirs = figure(student), None if teacher is None else figure(teacher)
        if ours is not None:
            _row(table, name, _estimate(theirs), _estimate(ours))

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
    table = _table("OOD AUROC by detector", "", *columns)
    cells = [
        {} if quality is None else found.mean_auroc(quality, kind)
        for kind in kinds
        for quality in (found.teacher, found.student)
    ]
    best = [max(column.values(), default=None) for column in cells]
    for detector in {name: None for column in cells for name in column}:
        shown = [
            _figure(column.get(detector), best=column.get(detector) == highest)
            for column, highest in zip(cells, best, strict=True)
        ]
        mark = " (in force)" if detector == found.detector else ""
        _row(table, f"{detector}{mark}", *shown)
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
    table = _table("kNN accuracy under corruptions", "", "teacher", "student")
    table.caption = f"severity {severities}; {ours.images:,} images"
    table.caption_justify = "left"
    _row(
        table,
        "none",
        _figure(None if theirs is None else theirs.clean_accuracy),
        _figure(ours.clean_accuracy),
    )
    for name, accuracy in ours.accuracy.items():
        before = None if theirs is None else theirs.accuracy[name]
        _row(table, name.replace("_", " "), _figure(before), _figure(accuracy))
    table.add_section()
    mean = None if theirs is None else theirs.mean_accuracy
    _row(table, "mean", _figure(mean), _figure(ours.mean_accuracy))
    return table


def _figure(value: float | None, *, best: bool = False) -> Text:
    return Text("" if value is None else f"{value:.3f}", "bold" if best else "")


def _compared_cell(figure: "Figure", name: str) -> Text:
    value = figure.values.get(name)
    shown = "" if value is None else f"{value:,.0f}" if value > 1 else f"{value:.3f}"
    best = len(figure.best) < len(figure.values) and name in figure.best
    return Text(shown, "bold" if best else "", no_wrap=True)


def _parity_table(report: "ParityReport") -> Table:
    table = _table(f"{report.artifact} on {report.candidate}", "", "seen", "bound", "")
    for check in report.figures.checks(report.tolerance):
        mark = Text("ok", "green") if check else Text("broken", "bold red")
        name = check.name.replace("_", " ")
        _row(table, name, f"{check.seen:.8g}", f"{check.sign} {check.bound:g}", mark)
    sizes = ", ".join(map(str, report.batch_sizes))
    _row(table, "comparisons", f"{report.figures.images:,}", "> 0", f"batches {sizes}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), **_STYLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row whose strings are shown as they are, never read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
