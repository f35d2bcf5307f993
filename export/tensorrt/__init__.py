"""Build TensorRT engines from the bundle's ONNX files, by `tensorrt` or `tensorrt-rtx`."""

from export.tensorrt.builder import (
    build_engine as build_engine,
    usual_timing_cache as usual_timing_cache,
)
from export.tensorrt.options import EngineOptions as EngineOptions
