"""A student's files in every precision, made and gated by the exporter's own code."""

from pathlib import Path
from typing import get_args

import onnx
from rich.progress import Progress

from export import ExportPlan
from export.deployed import Deployed
from export.gate import Gate
from export.lowering import lowered
from export.onnx import Target, save_onnx
from isogon.parity import ParityReport
from isogon.runtimes import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # float32 first


def onnx_name(precision: Precision, target: Target = "onnxruntime") -> str:
    """Return the file's name; only int8 has a file of its own for TensorRT."""
    other = precision == "int8" and target == "tensorrt"
    return f"model.{precision}{'.tensorrt' if other else ''}.onnx"


def write_files(
    precision: Precision,
    deployed: Deployed,
    folder: Path,
    *,
    gate: Gate,
    plan: ExportPlan,
    progress: Progress,
) -> dict[str, ParityReport]:
    """Write a precision's file to `folder`, two for int8; return their reports by name.

    Float32 comes first. What fails in a lower precision is repaired; what fails even so
    is written nevertheless.
    """
    float32 = folder / onnx_name("fp32")
    if precision == "fp32":
        save_onnx(deployed.graph, deployed.preprocessing, float32)
        model = onnx.load(float32)
        run = gate.try_model(model, float32, float32.name, precision)
        return {float32.name: gate.judge(run)}
    reports = {}
    for target in get_args(Target) if precision == "int8" else ("onnxruntime",):
        made = lowered(
            deployed,
            onnx.load(float32),
            precision,
            folder,
            gate=gate,
            plan=plan,
            progress=progress,
            target=target,
        )
        reports[made.file.name] = made.report
    return reports
