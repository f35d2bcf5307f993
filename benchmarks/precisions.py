"""From one float32 ONNX file to the other precisions, as the exporter makes them."""

from pathlib import Path
from typing import get_args

import onnx

from bundle import Precision
from bundle.runners import Pixels
from export.onnx import Target, float16_model, int8_model

PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # float32 first


def onnx_name(precision: Precision, target: Target = "onnxruntime") -> str:
    """Return the file's name; only int8 has a file of its own for TensorRT."""
    other = precision == "int8" and target == "tensorrt"
    return f"model.{precision}{'.tensorrt' if other else ''}.onnx"


def convert(precision: Precision, folder: Path, calibration: Pixels) -> None:
    """Write fp16, or both files of int8, beside the float32 file; nothing is repaired.

    Args:
        precision: "fp16" or "int8".
        folder: where `save_onnx` wrote the float32 file.
        calibration: images whose activations set int8's ranges.
    """
    model = onnx.load(folder / onnx_name("fp32"))
    if precision == "fp16":
        onnx.save(float16_model(model), folder / onnx_name("fp16"))
        return
    for target in get_args(Target):
        converted = int8_model(model, calibration, target=target)
        onnx.save(converted, folder / onnx_name("int8", target))
