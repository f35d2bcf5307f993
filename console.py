"""What the command line shows: results on stdout, progress and errors on stderr."""

import json
import os
from collections.abc import Iterator
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
    from bundle import Bundle, ParityReport

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
    _err.print("[bold red]Error[/]", end=" ")
    _err.print(str(error), markup=False, soft_wrap=True)


def as_json(document: Any) -> None:
    """Print a result for machines."""
    print(json.dumps(document, indent=2))


def evaluation(path: Path, document: dict[str, Any]) -> None:
    """Print what the student kept of its teacher, and what to do next."""
    _out.print(_evaluation_table(document, title=str(path)))
    _out.print(f"\nNext: isogon export {path}", markup=False)


def parity(report: "ParityReport") -> None:
    """Print a parity report that passed."""
    _out.print(_parity_table(report))


def inspection(
    bundle: "Bundle", document: dict[str, Any], reports: list["ParityReport"]
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
    _out.print(_evaluation_table(document, title="Evaluation"))
    for report in reports:
        _out.print(_parity_table(report))
    files = _table("Files, all intact", "file", "stage", "bytes", "SHA-256")
    for name, entry in manifest.files.items():
        _row(files, name, entry.stage, f"{entry.bytes:,}", f"{entry.sha256[:12]}…")
    _out.print(files)


def quickstart(
    bundle: "Bundle",
    report: "ParityReport",
    *,
    latencies: dict[str, float],
    examples: tuple[Path, ...],
    answers: list[dict[str, Any]],
) -> None:
    """Print the whole chain's figures and the commands to go on with."""
    document = json.loads(bundle.file("evaluation.json").read_bytes())
    table = _evaluation_table(document, title=f"{bundle.path}", bundle=bundle)
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


def _evaluation_table(
    document: dict[str, Any], *, title: str, bundle: "Bundle | None" = None
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
    teacher, student = document["teacher"], document["student"]
    fidelity = document["fidelity"]
    _row(table, "angle distortion", "", f"{fidelity['angle_distortion']:.3f}")
    _row(table, "neighbour overlap@10", "", f"{fidelity['neighbour_overlap']:.3f}")
    if teacher["knn_accuracy"] is not None:
        _row(
            table,
            "kNN accuracy",
            f"{teacher['knn_accuracy']:.3f}",
            f"{student['knn_accuracy']:.3f}",
        )
    for name, detectors in (teacher["ood_auroc"] or {}).items():
        for detector, auroc in detectors.items():
            _row(
                table,
                f"OOD AUROC, {name}, {detector}",
                f"{auroc:.3f}",
                f"{student['ood_auroc'][name][detector]:.3f}",
            )
    return table


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
