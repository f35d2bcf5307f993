"""ONNX: the deployed graph as one file, in every precision."""

from typing import Literal

from export.onnx.float16 import float16_model as float16_model
from export.onnx.float32 import OPSET as OPSET, save_onnx as save_onnx
from export.onnx.metadata import (
    save_model as save_model,
    set_metadata as set_metadata,
    stamp as stamp,
)

RangeMethod = Literal["percentile", "entropy"]


def int8_model(*a, **k):
    raise NotImplementedError


def quantisation_pixels(bundle):
    raise NotImplementedError
