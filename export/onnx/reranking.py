"""A large bank's search in ONNX Runtime: found in few bits, scored in float32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.reading import SEARCH
from export.onnx.search import BLOCK, SPARE, Coarse, Search, bank_search

_BLOCKWISE = 21  # the opset in which DequantizeLinear has blocks and 4 bits
_TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8}


def reranked(model: onnx.ModelProto, coarse: Coarse | None) -> onnx.ModelProto:
    """Return `model` with the search for the nearest of its bank in two steps.

    The score of a large bank takes as long as reading the bank does. So a copy in 4 or 8
    bits chooses the k + `SPARE` largest cosines; their float32 vectors are gathered, and
    their cosines, as exact as before, ranked again. The score is the same wherever the
    true k are among the candidates. Whether they are, the gate asks with real images
    (`max_score_error`, `decision_agreement`); before, `coarse_bank` asks with the bank's
    own vectors and random directions.

    Milliseconds an image, plain and so, k = 1, random directions, ONNX Runtime 1.31, one
    thread with VNNI, best of 60:

        vectors x width    batch 1        batch 8        batch 32
        50,000 x 1280      6.83   1.48    1.57   0.59    0.81   0.51
        50,000 x 192       0.76   0.21    0.23   0.15    0.13   0.16
        10,923 x 192       0.095  0.041   0.027  0.040   0.024  0.045
         4,096 x 192       0.037  0.023   0.011  0.019   0.009  0.023
        50,000 x 96        0.37   0.14    0.11   0.12    0.08   0.13
        32,768 x 64        0.101  0.065   0.031  0.072   0.032  0.078

    So it gains one image at a time, as the CPU serves them, and loses 10 to 50
    microseconds an image from batch 8 or 32 on, where the bank is small or narrow.
    Behind tf_efficientnet_lite0 at 224 pixels, which evicts the bank from the cache,
    50,000 x 192 cost 27 % of the embedding's time and cost 5 to 10 % so (8 bits: 13 %),
    at batch 1. On Tiny ImageNet no score of 76,000 differed by more than 1e-6: features
    of EfficientNet-Lite0 (1280 wide; 192 by PCA or projection) and of a student hardly
    trained, k = 1 and 10, banks of 14,000, asked with held-out images and five other
    sets. The student took 8 bits, the others mostly 4.

    The file and its memory grow by a seventh of the bank in 4 bits, a quarter in 8. Only
    standard operators are written; on the CPU ONNX Runtime fuses the first two to one
    (`MatMulNBits`; 8 bits since 1.25). Its CUDA and TensorRT providers were not measured.

    Args:
        model: as `save_onnx` writes it, in any precision; it is not changed.
        coarse: of the float32 graph that `model` comes from, as `coarse_bank` returns it.

    Returns:
        A model of the same function; `model` itself without a `coarse` bank.
    """
    search = None if coarse is None else bank_search(model)
    if coarse is None or search is None:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for opset in result.opset_import:
        if opset.domain in ("", "ai.onnx"):  # 21 only widens what the exporter writes in 20
            opset.version = max(opset.version, _BLOCKWISE)
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
        (graph.initializer, weights + _tensors(search, coarse)),
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

    blocks = {"axis": 0, "block_size": BLOCK}
    top = node("TopK", "found candidates", "best", {"axis": 1, "sorted": 0})
    top.output.append(f"{SEARCH}places")
    return [
        node("DequantizeLinear", "codes scales", "bank_coarse", blocks),
        node("MatMul", "embedding bank_coarse", "found"),
        top,
        node("Gather", "bank places", "vectors"),
        node("Unsqueeze", "embedding two", "column"),
        node("MatMul", "vectors column", "products"),
        node("Squeeze", "products two", "cosines"),
    ]


def _tensors(search: Search, coarse: Coarse) -> list[TensorProto]:
    """Return the weights that those nodes read."""
    codes = coarse.codes.T.astype(helper.tensor_dtype_to_np_dtype(_TYPES[coarse.bits]))
    arrays = {
        "bank": search.bank,
        "codes": codes,
        "scales": np.ascontiguousarray(coarse.scales.T),
        "candidates": np.array([search.k + SPARE]),
        "two": np.array([2]),
    }
    return [numpy_helper.from_array(array, SEARCH + name) for name, array in arrays.items()]
