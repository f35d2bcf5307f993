"""What an export made, and what a verification found, as tables."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from isogon.cli.parity_table import parity_table
from isogon.cli.tables import add_row, titled
from isogon.cli.terminal import note, out

if TYPE_CHECKING:
    from export import Exported, PlainWeights, Verified
    from export.lowering import Finetuning
    from isogon.bundle import Bundle, Reduction
    from isogon.parity import ParityReport


def weights(written: "PlainWeights") -> None:
    """Print which files hold the weights, and the lines that use them."""
    files = [written.backbone, *([written.embedding] if written.embedding else [])]
    note(f"Wrote {' and '.join(map(str, files))}. To use them:")
    if written.zeros:
        note(
            f"Zeros, because the student does not have these layers: "
            f"{', '.join(written.zeros)}."
        )
    out.print(written.snippet, markup=False, highlight=False, soft_wrap=True)


def exported(bundle: "Bundle", made: "Exported") -> None:
    """Print each artifact's parity, then all of them side by side."""
    for report in made.reports:
        out.print(parity_table(report))
    if len(made.reports) > 1:
        sizes = {name: entry.bytes for name, entry in bundle.manifest.files.items()}
        table = _summary(str(bundle.path), made.reports)
        for report in made.reports:
            _add_artifact(table, report, sizes[report.artifact])
        out.print(table)
    if made.reduction is not None:
        out.print(_reduction(made.reduction), soft_wrap=True)
    for one in made.lowered:
        if one.finetuning is not None:
            out.print(_finetuning(one.report.artifact, one.finetuning), soft_wrap=True)
        repair = one.repair
        if repair is None:
            continue
        told = f"{one.report.artifact}: {repair.reason}"
        if one.report and one.time_cost is not None:
            told += (
                f" That costs {repair.size_cost - 1:+.1%} in size and "
                f"{one.time_cost - 1:+.0%} in time for one image."
            )
        out.print(told, soft_wrap=True, markup=False)
        for node in repair.harmful[:8]:
            out.print(f"  {node.name} ({node.op_type}, {node.module})", markup=False)
        if len(repair.harmful) > 8:
            out.print(f"  and {len(repair.harmful) - 8} more")
    for name in made.withdrawn:
        why = (
            "it is damaged"
            if name in made.damaged
            else "it holds an earlier detector or bank, or nothing says which"
        )
        note(f"{name} was withdrawn: {why}. Export it again.")
    for name in made.unvouched:
        note(
            f"{name} was built but could not be run here: nothing vouches for it until "
            f"`isogon verify --vouch {bundle.path}` has run on its GPU."
        )
    # The first that was rejected, or else the first that failed, ends the command.
    for failed in made.failed if made.rejected else made.failed[1:]:
        note(f"{failed.artifact} could not be made: {failed.error}")
    for rejected in made.rejected[1:]:
        out.print(parity_table(rejected.report))
        note(rejected.advice)


def verified(found: "Verified") -> None:
    """Print the parity of every artifact that holds, name the others, and the verdict."""
    for report in found.reports:
        out.print(parity_table(report))
    for name, reason in found.skipped.items():
        note(f"{name} was passed over: {reason}")
    for fault in found.faults[1:]:  # the first one ends the command
        note(str(fault))
    out.print(_verdict(found), markup=False, soft_wrap=True)


def _verdict(found: "Verified") -> str:
    """Return what `isogon verify` has found, in a line."""
    tried = len(found.reports) + len(found.faults)
    passed_over = f", {len(found.skipped)} passed over" if found.skipped else ""
    if found:
        return (
            f"Verified: every file has its hash, and {tried} of {tried} artifacts do what "
            f"their reports claim{passed_over}."
        )
    return (
        f"NOT verified: {len(found.faults)} of {tried} artifacts do not keep what their "
        f"reports claim{passed_over}."
    )


def _summary(title: str, reports: "Iterable[ParityReport]") -> Table:
    columns = ("MB", "min cosine", "neighbours", "decisions", "score ranks")
    return titled(title, "artifact", *columns)


def _add_artifact(table: Table, report: "ParityReport", size: int) -> None:
    figures = report.figures
    add_row(
        table,
        report.artifact,
        f"{size / 1e6:.2f}",
        f"{figures.min_cosine:.6f}",
        f"{figures.neighbour_agreement:.4f}",
        f"{figures.decision_agreement:.4f}",
        f"{figures.score_rank_correlation:.4f}",
    )


def _finetuning(artifact: str, done: "Finetuning") -> Text:
    before, after = done.before.figures, done.after.figures
    told = (
        f"{artifact}: {done.steps} steps of fine-tuning in {done.seconds / 60:.1f} min "
        f"took the least cosine from {before.min_cosine:.4f} to {after.min_cosine:.4f} and "
        f"the neighbours in common from {before.neighbour_agreement:.4f} to "
        f"{after.neighbour_agreement:.4f}."
    )
    return Text(told if done else f"{told} The weights from before are kept.")


def _reduction(reduction: "Reduction") -> Text:
    told = f"The detector's bank was reduced from {reduction.bank:,} to {reduction.size:,}"
    if reduction.auroc is None or reduction.auroc_before is None:
        return Text(f"{told} vectors; without unfamiliar images, AUROC is not known.")
    return Text(
        f"{told} vectors: AUROC {reduction.auroc_before:.4f} before, "
        f"{reduction.auroc:.4f} after, {reduction.familiar:,} familiar and "
        f"{reduction.unfamiliar:,} unfamiliar images."
    )
