"""Runners: whatever turns pixels into embeddings and OOD scores."""

from bundle.runners.onnx import (
    CALIBRATION_KEY as CALIBRATION_KEY,
    FUNCTION_KEY as FUNCTION_KEY,
    PREPROCESSING_KEY as PREPROCESSING_KEY,
    OnnxRunner as OnnxRunner,
    Provider as Provider,
)
from bundle.runners.runner import (
    Outputs as Outputs,
    Pixels as Pixels,
    Runner as Runner,
)
from bundle.runners.tensorrt import TensorRTRunner as TensorRTRunner
