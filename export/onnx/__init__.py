"""ONNX: the deployed graph as one file, in float32, float16 or int8."""

from export.onnx.float16 import float16_model as float16_model
from export.onnx.float32 import (
    float32_model as float32_model,
    save_onnx as save_onnx,
)
from export.onnx.int8 import (
    Target as Target,
    int8_model as int8_model,
    quantised as quantised,
)
from export.onnx.observation import (
    ObservedActivations as ObservedActivations,
    observe as observe,
)
from export.onnx.saving import (
    save_model as save_model,
    set_metadata as set_metadata,
    stamp as stamp,
)
from export.onnx.search import (
    CoarseBank as CoarseBank,
    coarse_bank as coarse_bank,
    reranked as reranked,
)
