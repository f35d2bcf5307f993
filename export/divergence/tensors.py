"""Read the intermediate tensors of an ONNX graph, with float16 stored as on a GPU."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import final

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from isogon.errors import UsageError
from isogon.runtimes import Outputs, Pixels, Runner

_GROUP_BYTES = 128 * 2**20  # of tensors held at a time, for each of two models
_UNKNOWN = 2**20  # elements assumed for a tensor without a shape in the file
_STORED = "/stored"
Tensors = Mapping[str, np.ndarray]


def open_session(model: onnx.ModelProto, *, fused: bool) -> onnxruntime.InferenceSession:
    """Return a session on the CPU, with or without ONNX Runtime's optimisations.

    Raises:
        UsageError: the model does not load.
    """
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings about unused initialisers
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
    """Split tensors into groups of about 128 MB, by the shapes in `model`."""
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


def _elements(value: onnx.ValueInfoProto, batch: int) -> int:
    if not value.type.tensor_type.HasField("shape"):
        return _UNKNOWN
    axes = value.type.tensor_type.shape.dim
    return math.prod(axis.dim_value or batch for axis in axes)


def run(
    session: onnxruntime.InferenceSession, names: Sequence[str], pixels: Pixels
) -> Tensors:
    """Return the tensors `names` for one batch."""
    return dict(zip(names, session.run(list(names), {"images": pixels}), strict=True))


@final
class StoredRunner(Runner):
    """A float16 graph on the CPU, with every tensor rounded to float16 as on a GPU.

    Slower and stricter than `OnnxRunner`: a graph that fails here may pass there.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = open_session(as_stored(model), fused=False)
        self.name = f"onnxruntime {onnxruntime.__version__} CPU, every tensor as stored"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        names = ["embedding", "ood_score"]
        embeddings, scores = self._session.run(names, {"images": pixels})
        return Outputs(embeddings=embeddings, ood_scores=scores)


def as_stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with two Identity nodes after every node, so the CPU rounds.

    ONNX Runtime's CPU provider has float16 kernels for few operators. It casts to float32
    around the others and drops the casts between two of them, even with optimisations
    off. So float16 tensors stay float32 and an overflow does not show: in Conv, Relu,
    Conv in float16 a million in between stays finite (1.31). Where a tensor is really
    stored as float16, as a GPU may do, it becomes infinite.

    The CPU passes float16 data through an Identity. It removes a single one between
    float32 kernels, so there are two. Run the result without optimisations
    (`open_session(..., fused=False)`); with them both are removed.

    Overflows inside a GPU's kernel (a LayerNorm's sum of squares) are not shown.
    """
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    nodes = []
    made: set[str] = set()
    for node in stored.graph.node:
        node.input[:] = [name + _STORED if name in made else name for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name and name not in outputs:
                made.add(name)
                nodes += identities(name, name + _STORED)
    del stored.graph.node[:]
    stored.graph.node.extend(nodes)
    return stored


def identities(source: str, target: str) -> list[onnx.NodeProto]:
    """Return two Identity nodes from `source` to `target`; see `as_stored`."""
    between = f"{target}/between"
    return [
        helper.make_node("Identity", [source], [between], f"Identity_{between}"),
        helper.make_node("Identity", [between], [target], f"Identity_{target}"),
    ]
