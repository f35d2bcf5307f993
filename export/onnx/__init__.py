"""ONNX: the deployed graph as one file, in every precision."""

from export.onnx.float32 import OPSET as OPSET, save_onnx as save_onnx
from export.onnx.metadata import (
    save_model as save_model,
    set_metadata as set_metadata,
    stamp as stamp,
)
