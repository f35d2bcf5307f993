"""Float16: convert the inside of the graph to half precision; inputs and outputs stay.

A workaround is built in. ONNX Runtime 1.24 to 1.31 dereferences a null pointer on x86-64
when it opens a graph in which a Transpose that moves the first axis feeds a MatMul with a
weight through a Cast, its own float16 Casts included:
https://github.com/microsoft/onnxruntime/issues/28392. Every `nn.TransformerEncoder` has
this sequence. A Reshape to the same shape between the two avoids it and costs nothing.
"""

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx.reading import (
    ending,
    float32_tensors,
    may_be_float16,
    opset_of,
    require_nodes,
)
from isogon.errors import UsageError


def float16_model(
    model: onnx.ModelProto, *, keep: frozenset[str] = frozenset()
) -> onnx.ModelProto:
    """Return `model` with everything between pixels and embedding in float16.

    The result is strongly typed: each node computes in the type of its inputs, with a
    Cast wherever two types meet. These stay in float32: the outputs, the end of the
    graph (unit norm and detector), the nodes in `keep`, operators that ONNX does not
    define for float16, and nodes with a constant that float16 cannot hold: beyond
    65504 (a mask of -1e9), or a scalar that would become 0 (an epsilon of 1e-12).

    Nodes, tensors and metadata keep their names; the copy of a tensor in the other type
    is named `<tensor>_float16` or `<tensor>_float32`, and its Cast `Cast_<copy>`.

    `onnxruntime.transformers.float16` is not usable here: it clamps constants, converts
    tensors between two kept nodes to float16, and leaves its Casts unsorted.

    Args:
        model: the float32 model that `save_onnx` writes; it is not changed.
        keep: names of its nodes that stay in float32.

    Raises:
        UsageError: `keep` names no node of the model, or a node holds a graph.
    """
    _require_convertible(model, keep)
    floats = float32_tensors(model)
    kept = _kept(model, floats, keep | ending(model))
    halved = _halved(model, floats, kept)
    opset = opset_of(model)
    nodes, casts = [], set()
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    for node in converted.graph.node:
        allowed, _ = may_be_float16(node, opset)
        for place, name in enumerate(node.input):
            half = node.name not in kept and allowed[place]
            if name not in floats or half == (name in halved):
                continue
            node.input[place] = copy = f"{name}_float16" if half else f"{name}_float32"
            if copy not in casts:
                casts.add(copy)
                to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                nodes.append(
                    helper.make_node("Cast", [name], [copy], f"Cast_{copy}", to=to)
                )
        if node.name not in kept:
            _halve_attributes(node)
        nodes.append(node)
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    for weight in converted.graph.initializer:
        if weight.name in halved:
            weight.CopyFrom(_half(weight))
    for value in converted.graph.value_info:
        if value.name in halved:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return _separated(converted)


def _require_convertible(model: onnx.ModelProto, keep: frozenset[str]) -> None:
    require_nodes(model, keep)
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UsageError(
                f"The {node.op_type} {node.name} contains a graph of its own, which "
                f"cannot be converted. Build the student without data-dependent branches."
            )


def _kept(
    model: onnx.ModelProto, floats: frozenset[str], asked: frozenset[str]
) -> frozenset[str]:
    """Return the names of the nodes that compute in float32."""
    opset = opset_of(model)
    scales = {
        node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    unholdable = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in floats and not _holdable(tensor, whole=tensor.name in scales)
    }
    outputs = {output.name for output in model.graph.output}
    kept = set()
    for node in model.graph.node:
        _, allowed = may_be_float16(node, opset)
        held = all(map(_holdable, _constants(node)))
        if node.op_type == "Constant" and not held:
            unholdable.update(node.output)
        if (
            node.name in asked
            or (node.output[0] in floats and not allowed[0])
            or outputs.intersection(node.output)
            or unholdable.intersection(node.input)
            or not held
            or _is_float_by_definition(node)
        ):
            kept.add(node.name)
    users = defaultdict(list)
    for node in reversed(model.graph.node):
        for name in node.input:
            users[name].append(node.name)
        # A node that makes floats from integers, for kept nodes only, would lose digits.
        made = [user for name in node.output for user in users[name]]
        if made and kept.issuperset(made) and not floats.intersection(node.input):
            kept.add(node.name)
    return frozenset(kept)


def _halved(
    model: onnx.ModelProto, floats: frozenset[str], kept: frozenset[str]
) -> frozenset[str]:
    """Return the names of the tensors that are computed or stored as float16.

    A weight is stored as float16 if every node that reads it computes in float16.
    """
    opset = opset_of(model)
    made: set[str] = set()
    wanted: set[str] = set()
    unwanted: set[str] = set()
    for node in model.graph.node:
        inputs, outputs = may_be_float16(node, opset)
        half = node.name not in kept
        for name, allowed in zip(node.input, inputs, strict=True):
            (wanted if half and allowed else unwanted).add(name)
        if half:
            made.update(n for n, yes in zip(node.output, outputs, strict=True) if yes)
    weights = {tensor.name for tensor in model.graph.initializer}
    return floats & (made | (weights & wanted) - unwanted)


def _constants(node: onnx.NodeProto) -> list[onnx.TensorProto]:
    """Return a node's float32 tensors among its attributes."""
    tensors = [a.t for a in node.attribute if a.HasField("t")]
    if node.op_type == "Constant":
        numbers = [a for a in node.attribute if a.name in ("value_float", "value_floats")]
        values = (np.float32(helper.get_attribute_value(number)) for number in numbers)
        tensors += [numpy_helper.from_array(np.asarray(value)) for value in values]
    return [tensor for tensor in tensors if tensor.data_type == TensorProto.FLOAT]


def _is_float_by_definition(node: onnx.NodeProto) -> bool:
    """Whether the node makes float32 because no attribute gives another type."""
    if node.op_type == "Constant":
        return not any(attribute.name == "value" for attribute in node.attribute)
    return node.op_type == "ConstantOfShape" and not node.attribute


def _holdable(tensor: onnx.TensorProto, *, whole: bool = False) -> bool:
    """Whether float16 holds the values: none overflows, and no scalar becomes 0.

    In larger tensors values may become 0, unless `whole`.
    """
    single = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    overflows = np.isinf(half) & np.isfinite(single)
    vanishes = (half == 0) & (single != 0)
    if not whole and single.size > 1:
        vanishes[:] = False
    return not (overflows | vanishes).any()


def _halve_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_half(attribute.t))


def _half(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(
        numpy_helper.to_array(tensor).astype(np.float16), tensor.name
    )


def _separated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, changed in place: a Reshape before each MatMul after a Transpose.

    It avoids the crash described at the top of this file.
    """
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
    """Return the tensor before any Casts."""
    while name in makers and makers[name].op_type == "Cast":
        name = makers[name].input[0]
    return name


def _same_shape(transpose: onnx.NodeProto, name: str) -> onnx.TensorProto:
    """Return the Reshape shape that keeps every axis of a Transpose's output."""
    shape = np.zeros(_axes(transpose), np.int64)
    return numpy_helper.from_array(shape, f"{name}_shape")


def _axes(node: onnx.NodeProto) -> int:
    """Return how many axes a Transpose names; 0 for other nodes."""
    if node.op_type != "Transpose":
        return 0
    return sum(len(attribute.ints) for attribute in node.attribute)
