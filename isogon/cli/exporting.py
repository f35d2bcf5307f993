"""`isogon export`: artifacts in every precision, each gated by parity."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson, Bounds, BundlePath, MoreImages
from isogon.cli.tables import add_row, parity_table, titled

if TYPE_CHECKING:
    from export import Exported, PlainWeights, Verified
    from export.lowering import Finetuning
    from isogon.bundle import Bundle, Reduction
    from isogon.parity import ParityReport


_PROFILE = "1:8:32"


def export(
    bundle: BundlePath,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Add float16: half the size, for GPUs.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Add int8: a quarter of the size, for CPUs too."),
    ] = False,
    engine: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option(
            help="Add an engine in the precisions asked for, or else in float32: "
            "tensorrt for this machine's GPU, tensorrt-rtx for all from Ampere (sm80) on.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Batch sizes of an engine: the smallest, the one it is tuned for, the "
            "largest. Parity is measured at these as well.",
        ),
    ] = _PROFILE,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="An engine of tensorrt that later versions load too, by their lean "
            "runtime; costs some speed.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="An engine of tensorrt for every GPU from Ampere (sm80) on; costs some "
            "speed.",
        ),
    ] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Let the ONNX files in for this runtime too, if they pass in it: "
            "openvino, which is faster than ONNX Runtime on many CPUs. May be repeated.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int,
        typer.Option(
            help="Version of ONNX's operators. 20 opens in ONNX Runtime from 1.17 on, 18 "
            "from 1.14 on; with a bank so large that few bits search it: from 1.18 on.",
            min=18,
            max=20,
        ),
    ] = 20,
    bank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Reduce the bank of the detector (knn, nnguide) to N vectors; the "
            "AUROC before and after is reported. Without it: as it is.",
            min=1,
            show_default=False,
        ),
    ] = None,
    ranges: Annotated[
        Literal["percentile", "entropy"],
        typer.Option(help="How the ranges of int8's activations are chosen."),
    ] = "percentile",
    finetune: Annotated[
        bool,
        typer.Option(
            "--finetune",
            help="Train int8's weights for 300 small steps, rounding in force, until it "
            "answers as float32 does. Minutes on a CPU; kept only where it is better.",
        ),
    ] = False,
    finetune_on: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="More real images for --finetune, such as those of the training, beside "
            "the hundred or two in the bundle. The gate does not see them.",
            show_default=False,
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            help="Where float16 or int8 fails, keep in float32 the few nodes that spoil "
            "it, until it passes."
        ),
    ] = True,
    bound: Bounds = None,
    images: MoreImages = None,
    build_only: Annotated[
        bool,
        typer.Option(
            "--build-only",
            help="Build engines of tensorrt-rtx where they cannot run. Nothing vouches "
            "for them until `isogon verify --vouch` has run them on their GPU.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the student's weights alone, to .safetensors or .pth: a state "
            "dict that timm's model, or your own, takes. Nothing else is made.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write ONNX files and TensorRT engines; each enters only if it passes parity.

    Every artifact takes uint8 pixels and gives the embedding and the OOD score:
    normalisation and detector are inside. An ONNX file stands alone (`isogon run`).

    Each is compared with eager float32 torch on real images, at several batch sizes:
    cosine, neighbours, OOD scores and decisions, batch invariance, determinism. What
    breaks a bound is kept beside the bundle, and the exit status is 1: `isogon verify
    --diverge` then names the first layer that differs.
    """
    from isogon import api
    from isogon.bundle import Bundle
    from isogon.runtimes import BatchProfile

    BatchProfile.parse(batch)  # what is wrong with it is said before torch is loaded
    if weights is not None:
        _require_alone(locals())
        _weights(Bundle.open(bundle), weights, as_json=as_json)
        return
    opened = Bundle.open(bundle, rewriting=["export"])
    with console.progress() as progress:
        console.load("export", progress, extra="export")
        exported = api.export(
            opened,
            fp16=fp16,
            int8=int8,
            engine=engine,
            batch=batch,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            build_only=build_only,
            opset=opset,
            runtimes=runtime or (),
            bank=bank,
            ranges=ranges,
            repair=repair,
            finetune=finetune,
            finetune_on=finetune_on,
            bounds=bound or (),
            images=images,
            check=False,  # what failed is shown first
            progress=progress,
        )
    if as_json:
        console.as_json(exported_document(exported))
    else:
        show_exported(Bundle.open(bundle), exported)
    exported.require()


def _require_alone(given: dict[str, Any]) -> None:
    """Refuse options about artifacts, of which `--weights` makes none."""
    from isogon.errors import UsageError

    for name in (
        "fp16",
        "int8",
        "engine",
        "runtime",
        "finetune",
        "bank",
        "bound",
        "images",
        "build_only",
    ):
        if given[name]:
            raise UsageError(
                f"--weights writes weights alone. Leave out --{name.replace('_', '-')}, or "
                f"run `isogon export` once for each."
            )


def _weights(bundle: "Bundle", file: Path, *, as_json: bool) -> None:
    with console.progress() as progress:
        with console.loading(progress, extra="export"):
            from export import export_weights
        written = export_weights(bundle, file)
    if as_json:
        console.as_json(
            {
                "backbone": str(written.backbone),
                "embedding": written.embedding and str(written.embedding),
                "zeros": written.zeros,
                "snippet": written.snippet,
            }
        )
    else:
        show_weights(written)


def exported_document(exported: "Exported") -> dict[str, Any]:
    """Return what an export made, for JSON."""
    reduction = exported.reduction
    return {
        "reports": [report.model_dump(mode="json") for report in exported.reports],
        "repairs": {
            made.report.artifact: {
                "kept_nodes": sorted(made.repair.keep),
                "converted_nodes": made.repair.converted,
                "size_ratio": made.repair.size_cost,
                "time_ratio": made.time_cost,
            }
            for made in exported.lowered
            if made.repair is not None and made.repair.keep
        },
        "finetuning": {
            made.report.artifact: {
                "steps": made.finetuning.steps,
                "seconds": made.finetuning.seconds,
                "kept": bool(made.finetuning),
                "min_cosine_before": made.finetuning.before.figures.min_cosine,
                "min_cosine_after": made.finetuning.after.figures.min_cosine,
            }
            for made in exported.lowered
            if made.finetuning is not None
        },
        "reduction": None if reduction is None else reduction.model_dump(mode="json"),
        "unvouched": exported.unvouched,
        "withdrawn": list(exported.withdrawn),
        "rejected": [
            {"file": str(one.file), "report": one.report.model_dump(mode="json")}
            for one in exported.rejected
        ],
        "failed": [
            {"artifact": one.artifact, "error": str(one.error)} for one in exported.failed
        ],
    }


def show_weights(written: "PlainWeights") -> None:
    """Print which files hold the weights, and the lines that use them."""
    files = [written.backbone, *([written.embedding] if written.embedding else [])]
    note(f"Wrote {' and '.join(map(str, files))}. To use them:")
    if written.zeros:
        note(
            f"Zeros, because the student does not have these layers: "
            f"{', '.join(written.zeros)}."
        )
    out.print(written.snippet, markup=False, highlight=False, soft_wrap=True)


def show_exported(bundle: "Bundle", made: "Exported") -> None:
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


def show_verified(found: "Verified") -> None:
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
