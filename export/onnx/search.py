"""The search for the nearest of a large bank: found in few bits, scored in float32."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from jaxtyping import Float32, Int8
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.reading import SEARCH

SPARE = 64  # candidates beside the k that count
BLOCK = 64  # numbers of a vector that share a scale
# Numbers in a bank (10,923 vectors of 192); a smaller one takes 0.1 ms at most.
SMALLEST = 2**21
# Numbers in a vector; of narrower ones batches lose more than one image gains.
NARROWEST = 96
_SHARE = 8  # the bank has to have so many times the candidates
_ASKED = 256  # vectors of the bank, and as many random ones, to be answered right

Vectors = Float32[np.ndarray, "n d"]
Bits = Literal[4, 8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The product with the bank and the TopK behind it, as the exporter writes them."""

    cosines: str  # what the product makes and TopK alone reads
    weight: str
    bank: Vectors  # unit norm for knn, energy times that for NNGuide
    k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Coarse:
    """Vectors in few bits: `BLOCK` numbers in a row share a scale."""

    bits: Bits
    codes: Int8[np.ndarray, "n d"]
    scales: Float32[np.ndarray, "n blocks"]

    @classmethod
    def of(cls, vectors: Vectors, bits: Bits) -> "Coarse":
        """Return vectors rounded to so many bits.

        The number farthest from 0 in a block becomes the lowest code, whatever its sign:
        there is one more of those below 0 than above.
        """
        count, width = vectors.shape
        blocks = np.pad(vectors, ((0, 0), (0, -width % BLOCK))).reshape(count, -1, BLOCK)
        lowest = -(2 ** (bits - 1))
        farthest = np.abs(blocks).argmax(axis=2, keepdims=True)
        scales = np.take_along_axis(blocks, farthest, axis=2) / np.float32(lowest)
        scales[scales == 0] = 1
        codes = np.clip(np.round(blocks / scales), lowest, -lowest - 1).astype(np.int8)
        return cls(
            bits=bits,
            codes=codes.reshape(count, -1)[:, :width],
            scales=scales[:, :, 0],
        )

    def vectors(self) -> Vectors:
        """Return what the codes stand for."""
        scales = np.repeat(self.scales, BLOCK, axis=1)[:, : self.codes.shape[1]]
        found: np.ndarray = self.codes * scales
        return found


def coarse_bank(model: onnx.ModelProto) -> Coarse | None:
    """Return the bank of a float32 graph in as few bits as find the nearest.

    The bank's mean is taken off first, which changes an embedding's products alike.
    Embeddings of one student share a direction; without it the codes have only what tells
    them apart to express, and err in proportion to that.

    Returns:
        The bank in 4 bits, or in 8, or None: there is no large bank, or its classes are so
        narrow that 8 bits cannot order their members (cosines of 0.995 to their mean).
    """
    search = bank_search(model)
    if search is None:
        return None
    centred = search.bank - search.bank.mean(axis=0, dtype=np.float64).astype(np.float32)
    choices: tuple[Bits, ...] = (4, 8)
    for bits in choices:
        coarse = Coarse.of(centred, bits)
        if _suffices(search, coarse):
            return coarse
    return None


def bank_search(model: onnx.ModelProto) -> Search | None:
    """Return the search of a bank that is large enough to gain."""
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    read = Counter(name for node in graph.node for name in node.input)
    read.update(output.name for output in graph.output)
    for top in graph.node:
        product = made_by.get(top.input[0]) if top.op_type == "TopK" else None
        if (
            product is None
            or product.op_type != "MatMul"
            or product.input[0] != "embedding"
            or not {product.input[1], top.input[1]} <= weights.keys()
            or read[product.input[1]] > 1
            or read[top.input[0]] > 1
            or any(read[name] for name in top.output[1:])  # places in the bank
        ):
            continue
        options = {a.name: helper.get_attribute_value(a) for a in top.attribute}
        bank = numpy_helper.to_array(weights[product.input[1]]).T
        k = int(numpy_helper.to_array(weights[top.input[1]]).item())
        if (
            bank.dtype == np.float32
            and bank.ndim == 2
            and options.get("axis", -1) in (1, -1)
            and options.get("largest", 1)
            and bank.size >= SMALLEST
            and bank.shape[1] >= NARROWEST
            and len(bank) >= _SHARE * (k + SPARE)
        ):
            bank = np.ascontiguousarray(bank)
            weight = product.input[1]
            return Search(cosines=top.input[0], weight=weight, bank=bank, k=k)
    return None


def _suffices(search: Search, coarse: Coarse) -> bool:
    """Whether half of the spare candidates answer what is asked here as the bank does.

    A vector of the bank finds itself first, hence one neighbour more.
    """
    generator = np.random.default_rng(0)
    bank, count = search.bank, search.k + 1
    own = bank[generator.choice(len(bank), _ASKED, replace=False)]
    asked = np.concatenate([own, generator.normal(size=own.shape).astype(np.float32)])
    cosines = asked @ bank.T
    found = Coarse.of(asked, 8).vectors() @ coarse.vectors().T
    chosen = np.argpartition(found, -count - SPARE // 2)[:, -count - SPARE // 2 :]
    among = np.partition(np.take_along_axis(cosines, chosen, axis=1), -count)[:, -count]
    return bool((among == np.partition(cosines, -count)[:, -count]).all())


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
