"""Intermediate tensors of an ONNX graph, a few at a time so that memory stays bounded."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from isogon.errors import UsageError
from isogon.runtimes import Pixels

_GROUP_BYTES = 128 * 2**20  # of tensors held at a time, for each of two models
_UNKNOWN = 2**20  # elements of a tensor whose shape the file does not tell

Tensors = Mapping[str, np.ndarray]


def open_session(model: onnx.ModelProto, *, fused: bool) -> onnxruntime.InferenceSession:
    """Return a session on the CPU, with or without ONNX Runtime's optimisations.

    Raises:
        UsageError: it does not load.
    """
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings about initialisers that nothing reads
    options.graph_optimization_level = (
        level.ORT_ENABLE_ALL if fused else level.ORT_DISABLE_ALL
    )
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own classes have no public base
        raise UsageError(
            f"This graph does not load in ONNX Runtime {onnxruntime.__version__}, so its "
            f"tensors cannot be compared: {error}"
        ) from error


def exposing(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of the model whose outputs are the tensors `names`."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return exposed


def groups(
    model: onnx.ModelProto, names: Sequence[str], batch: int
) -> Iterator[Sequence[str]]:
    """Split tensors into groups of about 128 MB, by the shapes that `model` tells."""
    sizes = {value.name: _elements(value, batch) for value in model.graph.value_info}
    group: list[str] = []
    held = 0
    for name in names:
        size = 4 * sizes.get(name, _UNKNOWN)
        if group and held + size > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def run(
    session: onnxruntime.InferenceSession, names: Sequence[str], pixels: Pixels
) -> Tensors:
    """Return the tensors `names` of one batch."""
    return dict(zip(names, session.run(list(names), {"images": pixels}), strict=True))


def _elements(value: onnx.ValueInfoProto, batch: int) -> int:
    if not value.type.tensor_type.HasField("shape"):
        return _UNKNOWN
    axes = value.type.tensor_type.shape.dim
    return math.prod(axis.dim_value or batch for axis in axes)
