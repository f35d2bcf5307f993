"""What an ONNX graph says of itself: its precision, its types, its nodes and its end."""

import ast
import math
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from isogon.errors import UsageError
from isogon.runtimes import Precision


def require_nodes(model: onnx.ModelProto, names: frozenset[str]) -> None:
    """Raise `UsageError` unless all `names` are those of nodes of `model`."""
    unknown = sorted(names - {node.name for node in model.graph.node})
    if unknown:
        raise UsageError(
            f"`keep` names {', '.join(unknown[:3])}, and the model has no such node. "
            f"Name nodes of the float32 model."
        )


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


# Begins the names of what `export.onnx.search` adds, which is alike in every precision.
SEARCH = "search/"

# Where the exporter notes of a node which modules it is from.
SCOPES = "pkg.torch.onnx.name_scopes"
_NO_MODULE = "_empty_nn_module_stack"


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the ONNX model in a file.

    Raises:
        UsageError: it cannot be read, or is no ONNX file.
    """
    try:
        model: onnx.ModelProto = onnx.load(path, format="protobuf")
    except (DecodeError, OSError) as error:
        raise UsageError(
            f"{path} is no ONNX file that can be read: {error}. Give one that `isogon "
            f"export` wrote."
        ) from error
    return model


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
    """Return the torch module path of a node, "" where the graph itself computes.

    It is the innermost scope that the exporter wrote. A convolution that took in its
    batch norm carries the norm's scope; its weight's name says where it stands. (Of other
    nodes it may not: the exporter keeps one of equal weights, such as norms of ones.)
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
    """Return the names of the nodes from the embedding's normalisation on.

    That is whatever depends on the vector that is divided by its norm to become
    `embedding`; the division is what `isogon.networks.student.unit` exports to.

    Raises:
        UsageError: no division makes `embedding`; the graph is not one of ours.
    """
    nodes = model.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    division = made_by.get("embedding")
    if division is None or division.op_type != "Div":
        found = "nothing" if division is None else f"the {division.op_type} {division.name}"
        raise UsageError(
            f"Expected an ONNX graph whose `embedding` a Div makes by unit norm, found "
            f"{found}. Export it again with `isogon export`."
        )
    reached, names = {division.input[0]}, set()
    for node in nodes:  # in an order in which inputs come first
        if reached.intersection(node.input):
            reached.update(node.output)
            names.add(node.name)
    return frozenset(names)
