"""The whole chain's figures."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from rich.table import Table

from isogon.cli.evaluation_tables import evaluation_table, print_fitting, print_worth
from isogon.cli.tables import add_row
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from distill.evaluation import Evaluation
    from isogon.bundle import Bundle
    from isogon.parity import ParityReport


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
    print_worth(found)
    print_fitting(
        lambda intervals: _table(
            bundle,
            report,
            found,
            intervals=intervals,
            latencies=latencies,
            examples=examples,
            answers=answers,
        )
    )
    counted = [one for one in found.unfamiliar.values() if one.flagged is not None]
    if counted:
        flagged = sum(one.flagged or 0 for one in counted)
        images = sum(one.images for one in counted)
        out.print(f"\nIt flags {flagged:,} of {images:,} unfamiliar images.")
    path, part = quote(str(bundle.path)), quote(f"images=@{examples[1]}")
    out.print(
        f"\nNext:\n"
        f"  isogon serve {path}\n"
        f"  curl -F {part} localhost:3000/v1/embed\n"
        f"  isogon inspect {path}\n"
        f"  isogon quickstart --images YOUR_FOLDER --unfamiliar OTHER_FOLDER --output "
        f"yours.isogon",
        markup=False,
        soft_wrap=True,
    )


def _table(
    bundle: "Bundle",
    report: "ParityReport",
    found: "Evaluation",
    *,
    intervals: bool,
    latencies: dict[str, float],
    examples: tuple[Path, ...],
    answers: list[dict[str, Any]],
) -> Table:
    """Return the table of every figure."""
    title = f"{bundle.path}"
    table = evaluation_table(found, title, intervals=intervals, bundle=bundle)
    blank = [""] * (len(table.columns) - 2)  # all but the names and the student

    def of_student(name: str, value: str) -> None:
        add_row(table, name, *blank, value)

    figures = report.figures
    table.add_section()
    of_student("parity: minimum cosine", f"{figures.min_cosine:.7f}")
    of_student("parity: largest error", f"{figures.max_abs_error:.1e}")
    of_student("parity: neighbours kept", f"{figures.neighbour_agreement:.4f}")
    of_student("parity: same decisions", f"{figures.decision_agreement:.4f}")
    for name, milliseconds in latencies.items():
        of_student(f"latency, {name}", f"{milliseconds:.2f} ms")
    table.add_section()
    for kind, image, ood in zip(("familiar", "unfamiliar"), examples, answers, strict=True):
        verdict = "unfamiliar" if ood["is_ood"] else "familiar"
        of_student(f"{kind}: {image.name}", f"p = {ood['p_value']:.4f}, {verdict}")
    return table
