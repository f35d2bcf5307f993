"""The ONNX file an engine is built from: is it what it is said to be, and what failed?"""

from pathlib import Path
from typing import Any

import onnx

from export.onnx.reading import module_of, precision_of, read_onnx
from isogon.errors import UsageError
from isogon.runtimes import PREPROCESSING_KEY, Precision


def read_graph(path: Path) -> onnx.ModelProto:
    """Return the ONNX model in `path`.

    Raises:
        UsageError: there is none, or it takes anything else than images.
    """
    model = read_onnx(path)
    inputs = [value.name for value in model.graph.input]
    if inputs != ["images"]:
        raise UsageError(
            f"{path} should take `images` alone, it takes {inputs}. Write it with "
            f"`isogon export`."
        )
    return model


def require_precision(model: onnx.ModelProto, precision: Precision, path: Path) -> None:
    """Raise `UsageError` unless the graph's own types are those of `precision`.

    Networks are strongly typed: TensorRT computes in the types it finds, so an engine's
    precision is its graph's, and the stamp must not say another.
    """
    found = precision_of(model)
    if found != precision:
        raise UsageError(
            f"{path} computes in {found}, and an engine keeps the types of its graph, so "
            f"it cannot be stamped {precision}. Build it from the {precision} graph."
        )


def preprocessing_of(model: onnx.ModelProto) -> str:
    """Return the preprocessing that the graph's pixels must have gone through, or ""."""
    found: dict[str, str] = {entry.key: entry.value for entry in model.metadata_props}
    return found.get(PREPROCESSING_KEY, "")


def parser_errors(parser: Any, model: onnx.ModelProto) -> str:
    """Return what the parser refused: operator, node, torch module and reason."""
    nodes = {node.name: node for node in model.graph.node}
    lines = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        place = ""
        if error.node_operator():
            place = f"{error.node_operator()} node {error.node_name()!r}"
            node = nodes.get(error.node_name())
            module = "" if node is None else module_of(node)
            place += f" (torch module {module}): " if module else ": "
        reason = " ".join(error.desc().split())
        lines.append(f"{place}{reason} ({error.code().name})")
    return "; ".join(lines)
