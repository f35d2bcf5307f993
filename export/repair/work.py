"""The work of each node: what float32 costs where it is kept."""

import math
from collections.abc import Mapping

import numpy as np
import onnx

from export.divergence.tensors import exposing, groups, open_session, run
from isogon.runtimes import Pixels


def work_of_nodes(model: onnx.ModelProto, pixels: Pixels) -> Mapping[str, int]:
    """Return the work of each node by name: multiply-adds, or else elements written.

    A Conv, Gemm or MatMul makes so many products for each element that it writes; every
    other node is counted as one for each. The shapes are those of a run on one image.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for names in groups(model, [node.output[0] for node in model.graph.node], 1):
        session = open_session(exposing(model, names), fused=False)
        tensors = run(session, names, pixels[:1])
        shapes |= {name: np.shape(tensor) for name, tensor in tensors.items()}
    return {
        node.name: math.prod(shapes[node.output[0]]) * _products(node, shapes)
        for node in model.graph.node
    }


def _products(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many products make one element of the output."""
    if node.op_type == "Conv":
        return math.prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return shapes[node.input[0]][0 if turned else -1]
    return 1
