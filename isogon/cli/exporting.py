"""`isogon export`: artifacts in every precision, each gated by parity."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from isogon.cli import console
from isogon.cli.console import note, out
from isogon.cli.options import AsJson, Bounds, BundlePath, MoreImages
from isogon.cli.tables import add_row, parity_table, titled
from isogon.stage_imports import load_stage

if TYPE_CHECKING:
    from export import Exported, PlainWeights
    from export.conversion import Finetuning
    from isogon.bundle import Bundle, Reduction
    from isogon.parity import ParityReport

_PROFILE = "1:8:32"
_OF_WEIGHTS = ("bundle", "weights", "as_json")  # the parameters that --weights has


def export(
    context: typer.Context,
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
            help="Add an engine in each precision asked for, by default float32: tensorrt "
            "for this machine's GPU, tensorrt-rtx for every GPU from Ampere (sm80) on.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            metavar="MIN:OPT:MAX",
            help="Batch sizes of an engine: the smallest, the one it is tuned for, the "
            "largest. Parity is measured at these too.",
        ),
    ] = _PROFILE,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Build a tensorrt engine that later versions can load too, through the "
            "lean runtime; it is somewhat slower.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="Build a tensorrt engine for every GPU from Ampere (sm80) on; it is "
            "somewhat slower.",
        ),
    ] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also check parity in this runtime, so that it may serve the ONNX files: "
            "openvino, which is faster than ONNX Runtime on many CPUs. May be repeated.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int,
        typer.Option(
            help="Version of ONNX's operators. ONNX Runtime opens 20 from 1.17 on, 18 from "
            "1.14 on; a file whose large bank is searched in few bits needs 1.18.",
            min=18,
            max=20,
        ),
    ] = 20,
    bank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Reduce the bank of the detector (knn, nnguide) to N vectors; the "
            "AUROC before and after is reported. Without it: keep the bank as it is.",
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
            help="Fine-tune the int8 weights for 300 steps with rounding in force, towards "
            "the float32 outputs. Minutes on a CPU; kept only if it is better.",
        ),
    ] = False,
    finetune_on: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="More real images for --finetune, such as the training images, besides "
            "the 100 to 200 in the bundle. The parity check does not use them.",
            show_default=False,
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            help="If float16 or int8 fails parity, keep the few nodes that cause the error "
            "in float32, until it passes."
        ),
    ] = True,
    bound: Bounds = None,
    images: MoreImages = None,
    build_only: Annotated[
        bool,
        typer.Option(
            "--build-only",
            help="Build tensorrt-rtx engines on a machine that cannot run them. They are "
            "not usable until `isogon verify --vouch` has checked them on their GPU.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only write the student's weights, to .safetensors or .pth: a state dict "
            "that timm's model, or your own, loads.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write ONNX files and TensorRT engines; only those that pass parity enter the bundle.

    Every artifact takes uint8 pixels and returns the embedding and the OOD score:
    normalisation and detector are inside. An ONNX file needs no bundle (`isogon run`).

    Each is compared with eager float32 torch on real images, at several batch sizes:
    cosine, neighbours, OOD scores and decisions, batch invariance, determinism. An
    artifact that breaks a bound is kept beside the bundle, and the exit status is 1:
    `isogon verify --diverge` then names the first layer that differs.
    """
    from isogon import api
    from isogon.bundle import Bundle

    if weights is not None:
        _require_alone(context)
        _weights(Bundle.open(bundle), weights, as_json=as_json)
        return
    with console.progress() as progress:
        exported = api.export(
            bundle,
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
            check=False,  # the reports are shown before a failure is raised
            progress=progress,
        )
    if as_json:
        console.as_json(exported_document(exported))
    else:
        show_exported(Bundle.open(bundle), exported)
    exported.require()


def exported_document(exported: "Exported") -> dict[str, Any]:
    """Return what an export made, as a JSON document."""
    reduction = exported.reduction
    return {
        "reports": [report.model_dump(mode="json") for report in exported.reports],
        "repairs": {
            made.report.artifact: {
                "kept_nodes": sorted(made.repair.keep),
                "converted_nodes": made.repair.converted,
                "kept_work": made.repair.kept_work,
                "size_ratio": made.repair.size_cost,
                "time_ratio": made.time_cost,
            }
            for made in exported.converted
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
            for made in exported.converted
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


def show_exported(bundle: "Bundle", made: "Exported") -> None:
    """Print each artifact's parity, then all of them side by side."""
    for report in made.reports:
        out.print(parity_table(report))
    if len(made.reports) > 1:
        out.print(_artifacts_table(bundle, made.reports))
    if made.reduction is not None:
        out.print(_reduction(made.reduction), soft_wrap=True)
    for one in made.converted:
        if one.finetuning is not None:
            out.print(_finetuning(one.report.artifact, one.finetuning), soft_wrap=True)
        repair = one.repair
        if repair is None:
            continue
        told = f"{one.report.artifact}: {repair.reason}"
        if one.report and one.time_cost is not None:
            told += (
                f" They do {repair.kept_work:.0%} of the work. That costs "
                f"{repair.size_cost - 1:+.1%} in size and {one.time_cost - 1:+.0%} in time "
                f"for one image."
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
            else "its detector or bank is an earlier one, or unknown"
        )
        note(f"{name} was removed from the bundle: {why}. Export it again.")
    for name in made.unvouched:
        note(
            f"{name} was built but cannot run here. It is not usable until "
            f"`isogon verify --vouch {bundle.path}` has checked it on its GPU."
        )
    # The caller raises the first rejected artifact, or else the first failed one.
    for failed in made.failed if made.rejected else made.failed[1:]:
        note(f"{failed.artifact} could not be made: {failed.error}")
    for rejected in made.rejected[1:]:
        out.print(parity_table(rejected.report))
        note(rejected.advice)


def show_weights(written: "PlainWeights") -> None:
    """Print which files hold the weights, and the code that loads them."""
    files = [written.backbone, *([written.embedding] if written.embedding else [])]
    note(f"Wrote {' and '.join(map(str, files))}. To use them:")
    if written.zeros:
        note(
            f"These layers are zeros, because the student does not have them: "
            f"{', '.join(written.zeros)}."
        )
    out.print(written.snippet, markup=False, highlight=False, soft_wrap=True)


def _require_alone(context: typer.Context) -> None:
    """Refuse the options about artifacts, since `--weights` makes none."""
    from isogon.errors import UsageError

    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in _OF_WEIGHTS or source is None or source.name == "DEFAULT":
            continue
        raise UsageError(
            f"--weights writes weights alone. Leave out {parameter.opts[0]}, or run "
            f"`isogon export` once for each."
        )


def _weights(bundle: "Bundle", file: Path, *, as_json: bool) -> None:

    with console.progress() as progress:
        load_stage("export.weights", extra="export", progress=progress)
        from export.weights import export_weights

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


def _artifacts_table(bundle: "Bundle", reports: "Sequence[ParityReport]") -> Table:
    """Return the size and the parity figures of each artifact, one in a row."""
    columns = ("MB", "min cosine", "neighbours", "decisions", "score ranks")
    table = titled(str(bundle.path), "artifact", *columns)
    for report in reports:
        figures = report.figures
        add_row(
            table,
            report.artifact,
            f"{bundle.manifest.files[report.artifact].bytes / 1e6:.2f}",
            f"{figures.min_cosine:.6f}",
            f"{figures.neighbour_agreement:.4f}",
            f"{figures.decision_agreement:.4f}",
            f"{figures.score_rank_correlation:.4f}",
        )
    return table


def _reduction(reduction: "Reduction") -> Text:
    told = f"The detector's bank was reduced from {reduction.bank:,} to {reduction.size:,}"
    if reduction.auroc is None or reduction.auroc_before is None:
        return Text(f"{told} vectors. The AUROC is unknown without unfamiliar images.")
    return Text(
        f"{told} vectors: AUROC {reduction.auroc_before:.4f} before, "
        f"{reduction.auroc:.4f} after, on {reduction.familiar:,} familiar and "
        f"{reduction.unfamiliar:,} unfamiliar images."
    )


def _finetuning(artifact: str, done: "Finetuning") -> Text:
    before, after = done.before.figures, done.after.figures
    told = (
        f"{artifact}: {done.steps} steps of fine-tuning in {done.seconds / 60:.1f} min "
        f"changed the minimum cosine from {before.min_cosine:.4f} to "
        f"{after.min_cosine:.4f} and the neighbour agreement from "
        f"{before.neighbour_agreement:.4f} to {after.neighbour_agreement:.4f}."
    )
    return Text(told if done else f"{told} The earlier weights are kept.")
