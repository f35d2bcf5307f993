"""From one float32 ONNX file to the other precisions, as the exporter makes them."""

from pathlib import Path
from typing import get_args

import onnx
from rich.progress import Progress

from bundle.parity import Precision
from bundle.runners import Pixels
from export.onnx.float16 import float16_model
from export.onnx.int8 import int8_model

PRECISIONS: tuple[Precision, ...] = get_args(Precision)  # float32 first


def convert(
    precision: Precision,
    source: Path,
    target: Path,
    calibration: Pixels,
    progress: Progress,
) -> None:
    """Write the float32 file `source` to `target` in fp16 or int8, nothing repaired.

    Args:
        precision: of the target.
        source: what `save_onnx` wrote.
        target: the file to write.
        calibration: images whose activations set int8's ranges.
        progress: where to show progress.
    """
    model = onnx.load(source)
    if precision == "fp16":
        converted = float16_model(model)
    else:
        converted = int8_model(model, calibration)
    onnx.save(converted, target)
