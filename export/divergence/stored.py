"""Float16 as a GPU has it: every tensor is rounded where the graph stores it."""

from typing import final

import onnx
import onnxruntime
from onnx import helper

from export.divergence.tensors import open_session
from isogon.runtimes import Outputs, Pixels, Runner

_STORED = "/stored"


@final
class StoredRunner(Runner):
    """A float16 graph on the CPU, with every tensor rounded as a GPU stores it.

    Slower than `OnnxRunner`, and stricter: what it refuses may pass there.
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
    """Return the same graph with two Identities behind every node, for the CPU to run.

    ONNX Runtime's CPU provider has float16 kernels for few operators. It casts to float32
    around the others and drops the casts between two of them, also where its
    optimisations are off, so tensors of type float16 stay float32 and an overflow does not
    show: through Conv, Relu and Conv in float16, a million in between comes out unharmed
    (1.31). Where a tensor is really stored as float16, as a GPU may, it is infinite.

    The CPU moves float16 data of any size through an Identity, which it cannot cast away
    unless one stands alone between float32 kernels: hence two. Run the result without
    optimisations (`open_session(..., fused=False)`), or they are removed.

    What a kernel of a GPU holds inside (a LayerNorm's sum of squares) is not shown.
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
    """Return the nodes that round `source` to its type, as `target`; see `as_stored`."""
    between = f"{target}/between"
    return [
        helper.make_node("Identity", [source], [between], f"Identity_{between}"),
        helper.make_node("Identity", [between], [target], f"Identity_{target}"),
    ]
