"""A large bank's search in ONNX Runtime: found in int8, scored in float32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from jaxtyping import Int8
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.reading import SEARCH
from export.onnx.search import (
    SPARE,
    TINY,
    Scales,
    Search,
    bank_search,
    centred,
    int8_vectors,
    suffices,
)


def reranked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the search for the nearest of its bank in two steps.

    The score of a large bank takes as long as reading the bank does. So an int8 copy
    chooses the k + `SPARE` largest cosines; their float32 vectors are gathered, and their
    cosines, as exact as before, ranked again. The score is the same wherever the true k
    are among the candidates. Whether they are, the gate asks with real images
    (`max_score_error`, `decision_agreement`); before, the bank's own vectors and random
    directions are asked here, and `model` stays as it is unless half of `SPARE` would do
    for all of them. It would not in classes so narrow (cosines of 0.995 to their mean)
    that int8 cannot order their members.

    What chooses need only keep the order of one embedding's cosines. So the bank's mean
    is taken off (`centred`), and every embedding is divided by its largest component:
    it fills the int8 range whatever it is, and none is clipped. One scale for all of
    them, taken from the bank, would clip unfamiliar ones: where one component is large,
    scores were wrong by up to 5 % of their range. Vectors of the bank have a scale each.

    Milliseconds an image, plain and so, k = 1, random directions, ONNX Runtime 1.31, one
    thread with VNNI, best of 60:

        vectors x width    batch 1        batch 8        batch 32
        50,000 x 1280      7.56   2.06    1.85   0.58    1.06   0.33
        50,000 x 192       0.78   0.36    0.24   0.11    0.13   0.07
        10,923 x 192       0.089  0.057   0.024  0.016   0.022  0.019
         4,096 x 192       0.035  0.028   0.009  0.008   0.007  0.008
        50,000 x 96        0.32   0.20    0.11   0.06    0.09   0.05
        32,768 x 64        0.090  0.094   0.027  0.027   0.029  0.027

    Behind tf_efficientnet_lite0 at 224 pixels, which evicts the bank from the cache,
    50,000 x 192 cost 27 % of the embedding's time and cost 10.4 to 10.9 % so (batch 1),
    5 to 6 % and 3 % (batch 8). On Tiny ImageNet no score of 72,000 differed by more than
    1e-6: features of EfficientNet-Lite0 and -Lite2 (1280 wide; 192 by PCA or projection;
    k = 1 and 10), banks of 14,000, asked with held-out images and five other sets.

    The file and its memory grow by a quarter of the bank. Only standard operators are
    written; on the CPU ONNX Runtime fuses those around the int8 product to one of
    integers. Its CUDA and TensorRT providers were not measured.

    Args:
        model: as `save_onnx` writes it, in any precision; it is not changed.

    Returns:
        A model of the same function, or `model` itself where it holds no search (knn,
        NNGuide), or one that would gain nothing (`SMALLEST`, `NARROWEST`).
    """
    search = bank_search(model)
    if search is None:
        return model
    quantised, scales = int8_vectors(centred(search.bank))
    if not suffices(search, quantised * scales):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] == search.cosines:
            for made in _nodes():
                made.metadata_props.extend(node.metadata_props)
                nodes.append(made)
            continue
        if node.input and node.input[0] == search.cosines:
            node.input[0] = f"{SEARCH}cosines"
        nodes.append(node)
    weights = [weight for weight in graph.initializer if weight.name != search.weight]
    values = [value for value in graph.value_info if value.name != search.cosines]
    for field, kept in (
        (graph.node, nodes),
        (graph.initializer, weights + _tensors(search, quantised, scales)),
        (graph.value_info, values),
    ):
        del field[:]
        field.extend(kept)
    return result


def _nodes() -> list[NodeProto]:
    """Return the nodes from `embedding` to the candidates' cosines."""

    def node(
        op_type: str, inputs: str, output: str, options: Mapping[str, Any] | None = None
    ) -> NodeProto:
        names = [n if n == "embedding" else SEARCH + n for n in inputs.split()]
        output = SEARCH + output
        return helper.make_node(op_type, names, [output], output, **(options or {}))

    top = node("TopK", "found candidates", "best", {"axis": 1, "sorted": 0})
    top.output.append(f"{SEARCH}places")
    return [
        node("Abs", "embedding", "sizes"),
        node("ReduceMax", "sizes one", "largest"),
        node("Max", "largest tiny", "divisor"),
        node("Div", "embedding divisor", "filled"),
        node("QuantizeLinear", "filled step zero", "embedding_int8"),
        node("DequantizeLinear", "embedding_int8 step zero", "embedding_coarse"),
        node("DequantizeLinear", "bank_int8 scales zeros", "bank_coarse", {"axis": 1}),
        node("MatMul", "embedding_coarse bank_coarse", "found"),
        top,
        node("Gather", "bank places", "vectors"),
        node("Unsqueeze", "embedding two", "column"),
        node("MatMul", "vectors column", "products"),
        node("Squeeze", "products two", "cosines"),
    ]


def _tensors(
    search: Search, quantised: Int8[np.ndarray, "n d"], scales: Scales
) -> list[TensorProto]:
    """Return the weights that those nodes read."""
    arrays = {
        "bank": search.bank,
        "bank_int8": np.ascontiguousarray(quantised.T),
        "scales": scales[:, 0],
        "zeros": np.zeros(len(quantised), np.int8),
        "step": np.float32(1 / 127),
        "zero": np.int8(0),
        "tiny": TINY,
        "candidates": np.array([search.k + SPARE]),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    return [
        numpy_helper.from_array(np.asarray(array), SEARCH + name)
        for name, array in arrays.items()
    ]
