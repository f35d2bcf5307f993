"""Read an ONNX graph: its precision, tensor types, torch modules and final nodes."""

import ast
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from isogon.errors import UsageError
from isogon.runtimes import Precision

# Prefix of the nodes that `export.onnx.search` adds; they are the same in every precision.
SEARCH = "search/"
# Metadata key under which the exporter notes a node's torch modules.
SCOPES = "pkg.torch.onnx.name_scopes"
_NO_MODULE = "_empty_nn_module_stack"
_FLOAT16 = "tensor(float16)"
_SMALL = 1024  # elements; shape inference needs the values of small tensors only


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX model in a file.

    Raises:
        UsageError: the file cannot be read, or is not an ONNX file.
    """
    try:
        model: onnx.ModelProto = onnx.load(path, format="protobuf")
    except (DecodeError, OSError) as error:
        raise UsageError(
            f"{path} cannot be read as an ONNX file: {error}. Give one that `isogon "
            f"export` wrote."
        ) from error
    return model


def require_nodes(model: onnx.ModelProto, names: frozenset[str]) -> None:
    """Raise `UsageError` unless `model` has nodes of all these names."""
    unknown = sorted(names - {node.name for node in model.graph.node})
    if unknown:
        raise UsageError(
            f"`keep` names {', '.join(unknown[:3])}, but the model has no such node. "
            f"Name nodes of the float32 model."
        )


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset (the version of ONNX's operators) that the model imports."""
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def precision_of(model: onnx.ModelProto) -> Precision:
    """Return the precision of a graph: int8 if it quantises, fp16 if it holds float16."""
    nodes = [node for node in model.graph.node if not node.name.startswith(SEARCH)]
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    casts = (a.i for node in nodes if node.op_type == "Cast" for a in node.attribute)
    weights = (tensor.data_type for tensor in model.graph.initializer)
    return "fp16" if half in casts or half in weights else "fp32"


def module_of(node: onnx.NodeProto) -> str:
    """Return the torch module path of a node; "" outside all modules.

    This is the innermost scope that the exporter wrote. A convolution with a folded batch
    norm has the norm's scope, so its path is taken from the weight's name. (Not for other
    nodes: of equal weights, such as norms of ones, the exporter keeps only one.)
    """
    if node.op_type == "Conv" and node.input[1].endswith(".weight"):
        return str(node.input[1]).removesuffix(".weight")
    scopes = scopes_of(node)
    return scopes[-1] if scopes else ""


def scopes_of(node: onnx.NodeProto) -> list[str]:
    """Return the paths of the torch modules around a node, the innermost last."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes: list[str] = ast.literal_eval(entry.value)
            return [path for path in scopes[:-1] if not path.startswith(_NO_MODULE)]
    return []


def ending(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the final nodes: the embedding's normalisation and the detector.

    These are all nodes that depend on the vector before it is divided by its norm. The
    division is the exported form of `isogon.networks.student.unit`.

    Raises:
        UsageError: `embedding` is not the result of a Div, so the graph is not ours.
    """
    nodes = model.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    division = made_by.get("embedding")
    if division is None or division.op_type != "Div":
        found = "nothing" if division is None else f"the {division.op_type} {division.name}"
        raise UsageError(
            f"Expected an ONNX graph whose `embedding` is the result of a Div, found "
            f"{found}. Export it again with `isogon export`."
        )
    reached, names = {division.input[0]}, set()
    for node in nodes:  # ONNX sorts nodes: inputs come first
        if reached.intersection(node.input):
            reached.update(node.output)
            names.add(node.name)
    return frozenset(names)


def rounded_from(name: str, makers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return the tensor that an int8 graph rounds to `name`; None if it is not rounded.

    Args:
        name: of a tensor.
        makers: the nodes by the names of their outputs.
    """
    back = makers.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    there = makers.get(back.input[0])
    if there is None or there.op_type != "QuantizeLinear":
        return None  # a weight, stored as int8
    return str(there.input[0])


def float32_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of all float32 tensors, weights included.

    Types are inferred on a copy without large weights, because ONNX takes no protobuf of
    more than 2 GB.
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
    """Return for each input and each output of `node` whether it may be float16.

    The operator's definition in ONNX decides: `scales` of Resize is always float32, and
    Range has no float16. Operators that ONNX does not define may not use float16.
    """
    if not onnx.defs.has(node.op_type, opset, node.domain):
        return [False] * len(node.input), [False] * len(node.output)
    inputs, outputs = _allowances(node.op_type, opset, node.domain)
    return _spread(inputs, len(node.input)), _spread(outputs, len(node.output))


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
    """Repeat the last entry for an operator with any number of inputs (Concat)."""
    return [allowances[min(place, len(allowances) - 1)] for place in range(count)]
