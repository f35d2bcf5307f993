"""Which tensors of a graph are float32, and which places ONNX lets be float16."""

import math
from functools import cache

import onnx
from onnx import TensorProto, helper

_FLOAT, _FLOAT16 = "tensor(float)", "tensor(float16)"
_SMALL = 1024  # elements; shape inference reads the values of shapes, never of weights


def float32_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of all float32 tensors, weights included.

    The weights' values are left out of what is inferred on, because a protobuf of more
    than 2 GB cannot pass to ONNX.
    """
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = "types"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if math.prod(weight.dims) <= _SMALL:
            graph.initializer.append(weight)
        else:
            graph.input.append(
                helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            )
    inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True).graph
    typed = [*inferred.input, *inferred.output, *inferred.value_info]
    weights = {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT}
    return frozenset(
        weights
        | {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    )


def may_be_float16(node: onnx.NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Return for each input and each output of `node` whether float16 may stand there.

    So says the operator's definition in ONNX: `scales` of Resize is always float32, and
    Range has no float16 at all. An operator that ONNX does not define has none.
    """
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return [False] * len(node.input), [False] * len(node.output)
    inputs, outputs = _allowances(node.op_type, opset, node.domain)
    return _spread(inputs, len(node.input)), _spread(outputs, len(node.output))


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that the model imports."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


@cache
def _allowances(
    operator: str, opset: int, domain: str
) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    schema = onnx.defs.get_schema(operator, opset, domain)
    allowed = {
        each.type_param_str: set(each.allowed_type_strs) for each in schema.type_constraints
    }
    inputs, outputs = (
        tuple(_FLOAT16 in allowed.get(place.type_str, {place.type_str}) for place in places)
        for places in (schema.inputs, schema.outputs)
    )
    return inputs, outputs


def _spread(allowances: tuple[bool, ...], count: int) -> list[bool]:
    """Repeat the last place of an operator that takes any number of them (Concat)."""
    return [allowances[min(place, len(allowances) - 1)] for place in range(count)]
