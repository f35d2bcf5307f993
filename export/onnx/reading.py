"""What an ONNX graph says of itself: its precision, and where its nodes come from."""

import ast
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from isogon.errors import UsageError
from isogon.runtimes import Precision

# Begins the names of what `export.onnx.reranking` adds, which is alike in every precision.
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
