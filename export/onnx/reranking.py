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
    chooses the k + `SPARE` largest cosines; their float32 vectors are gathered and their
    cosines, as exact as before, ranked again. The score is the same wherever the true k
    are among the candidates. Whether it is, the gate asks with real images
    (`max_score_error`, `decision_agreement`); before, the bank's own vectors and random
    directions are asked here, and `model` stays as it is unless half of `SPARE` would do
    for all of them. It does not in classes so narrow (cosines of 0.995 to their mean)
    that int8 cannot order their members.

    Every embedding is divided by its largest component, so that it fills the int8 range
    whatever it is, and none is clipped: the factor is the same for all cosines of an
    embedding and does not change their order. One scale for all embeddings, taken from
    the bank, costs up to 14 % of the scores' range where one component is large. Vectors
    of the bank have a scale each, which the product takes back.

    Milliseconds an image, k = 1, ONNX Runtime 1.31, one thread with VNNI, plain and so:

              vectors x width    batch 1        batch 8        batch 32
        50,000 x 192         1.18   0.50    0.28   0.13    0.15   0.08
        50,000 x 1280        7.1    2.2     2.0    0.58
        12,288 x 192         0.21   0.11    0.070  0.038   0.038  0.027
         8,192 x 192         0.073  0.048   0.024  0.024   0.024  0.020
         4,096 x 192         0.038  0.029   0.010  0.011
         2,048 x 1280        0.26   0.11    0.071  0.042   0.037  0.034
        65,536 x 32          0.29   0.29    0.086  0.088   0.049  0.059

    On 50,000 views of Tiny ImageNet (EfficientNet-Lite0; 1280 wide, projected and by PCA
    192 wide; k = 1 and 10), asked with 250 others, 200 random directions and 100 with one
    large component, 8 spare candidates found every score.

    It costs a quarter of the bank's bytes more in the file and in memory. Only the
    product of `Q` and `DQ` pairs is written, with standard operators; ONNX Runtime fuses
    it on the CPU to one of integers. CUDA's provider does not, and was not measured.

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
