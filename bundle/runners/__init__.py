"""Runners: whatever turns pixels into embeddings and OOD scores."""

from bundle.runners.onnx import (
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
