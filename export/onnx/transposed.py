"""A crash of ONNX Runtime kept away: Transpose, Cast and MatMul in a row, in float16.

ONNX Runtime 1.24 to 1.31 dereferences a null pointer on x86-64 when it opens a graph in
which a Transpose that moves the first axis feeds a MatMul by a weight through a Cast, its
own Casts of float16 included: https://github.com/microsoft/onnxruntime/issues/28392. Every
`nn.TransformerEncoder` has that row. A Reshape to the same shape between the two, which
costs nothing, hides it.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def separated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, changed in place: a Reshape before each MatMul in such a row."""
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes, reshaped = [], {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and _source(node.input[1], makers) in weights:
            transpose = makers.get(_source(node.input[0], makers))
            if transpose is not None and _axes(transpose):
                name = node.input[0]
                if name not in reshaped:
                    reshaped[name] = f"{name}_separated"
                    shape = _same_shape(transpose, reshaped[name])
                    model.graph.initializer.append(shape)
                    nodes.append(
                        helper.make_node(
                            "Reshape",
                            [name, shape.name],
                            [reshaped[name]],
                            f"Reshape_{reshaped[name]}",
                        )
                    )
                node.input[0] = reshaped[name]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _source(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Return the tensor behind Casts."""
    while name in makers and makers[name].op_type == "Cast":
        name = makers[name].input[0]
    return name


def _same_shape(transpose: onnx.NodeProto, name: str) -> onnx.TensorProto:
    """Return the shape that keeps every axis of what a Transpose gives."""
    shape = np.zeros(_axes(transpose), np.int64)
    return numpy_helper.from_array(shape, f"{name}_shape")


def _axes(node: onnx.NodeProto) -> int:
    """Return how many axes a Transpose names; 0 for other nodes."""
    if node.op_type != "Transpose":
        return 0
    return sum(len(attribute.ints) for attribute in node.attribute)
