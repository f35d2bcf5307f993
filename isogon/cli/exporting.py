"""`isogon export`: artifacts in every precision, each gated by parity."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from isogon.cli import console
from isogon.cli.options import AsJson, Bounds, BundlePath, MoreImages

if TYPE_CHECKING:
    from export import Exported
    from isogon.bundle import Bundle

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
        console.exported(Bundle.open(bundle), exported)
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
        console.weights(written)


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
