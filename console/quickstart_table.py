"""The whole chain's figures."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from console.evaluation_tables import evaluation_table
from console.tables import add_row
from console.terminal import out

if TYPE_CHECKING:
    from bundle import Bundle, ParityReport
    from distill.evaluation import Evaluation


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
    table = evaluation_table(found, title=f"{bundle.path}", bundle=bundle)
    figures = report.figures
    table.add_section()
    add_row(table, "parity: minimum cosine", "", f"{figures.min_cosine:.7f}")
    add_row(table, "parity: largest error", "", f"{figures.max_abs_error:.1e}")
    add_row(table, "parity: neighbours kept", "", f"{figures.neighbour_agreement:.4f}")
    add_row(table, "parity: same decisions", "", f"{figures.decision_agreement:.4f}")
    for name, milliseconds in latencies.items():
        add_row(table, f"latency, {name}", "", f"{milliseconds:.2f} ms")
    table.add_section()
    for name, one in found.unfamiliar.items():
        if one.flagged is not None:
            add_row(table, f"{name} images flagged", "", f"{one.flagged} of {one.images}")
    for kind, image, ood in zip(("familiar", "unfamiliar"), examples, answers, strict=True):
        verdict = "unfamiliar" if ood["is_ood"] else "familiar"
        add_row(table, f"{kind}: {image.name}", "", f"p = {ood['p_value']:.4f}, {verdict}")
    out.print(table)
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
