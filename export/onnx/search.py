"""Search a large bank in two steps: candidates in 4 or 8 bits, scores in float32."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from jaxtyping import Float32, Int8
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx.reading import SEARCH

Vectors = Float32[np.ndarray, "n d"]
Bits = Literal[4, 8]
SPARE = 64  # candidates in addition to k
BLOCK = 64  # consecutive numbers of a vector that share a scale
# Numbers in a bank (10,923 vectors of 192); smaller banks take 0.1 ms at most.
SMALLEST = 2**21
# Numbers in a vector; with narrower ones, batches lose more than single images gain.
NARROWEST = 96
_SHARE = 8  # the bank must have this many times the number of candidates
_ASKED = 256  # test queries from the bank, and as many random ones
_BLOCKWISE = 21  # the first opset whose DequantizeLinear has blocks and 4 bits
_TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8}


@dataclass(frozen=True, kw_only=True, slots=True)
class BankSearch:
    """The product with the bank and the TopK after it, as the exporter writes them."""

    cosines: str  # the product's output, which only TopK reads
    weight: str
    bank: Vectors  # unit norm for knn; times the energy for NNGuide
    k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CoarseBank:
    """A bank in 4 or 8 bits; `BLOCK` consecutive numbers share a scale."""

    bits: Bits
    codes: Int8[np.ndarray, "n d"]
    scales: Float32[np.ndarray, "n blocks"]

    @classmethod
    def of(cls, vectors: Vectors, bits: Bits) -> "CoarseBank":
        """Return vectors rounded to `bits` bits.

        The number farthest from 0 in a block becomes the lowest code, whatever its sign,
        because there is one more code below 0 than above.
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
        """Return the vectors that the codes represent."""
        scales = np.repeat(self.scales, BLOCK, axis=1)[:, : self.codes.shape[1]]
        found: np.ndarray = self.codes * scales
        return found


def coarse_bank(model: onnx.ModelProto) -> CoarseBank | None:
    """Return the bank of a float32 graph in 4 or 8 bits, whichever suffices.

    The bank's mean is subtracted first, which changes all products of an embedding by the
    same amount. Embeddings of one student share a direction; without it the codes only
    represent the differences, and their error is smaller.

    Returns:
        The bank in 4 bits, or in 8. None: there is no large bank, or its classes are so
        dense that 8 bits cannot order their vectors (cosines of 0.995 to their mean).
    """
    search = _bank_search(model)
    if search is None:
        return None
    centred = search.bank - search.bank.mean(axis=0, dtype=np.float64).astype(np.float32)
    choices: tuple[Bits, ...] = (4, 8)
    for bits in choices:
        coarse = CoarseBank.of(centred, bits)
        if _suffices(search, coarse):
            return coarse
    return None


def _bank_search(model: onnx.ModelProto) -> BankSearch | None:
    """Return the search in a bank that is large enough to gain from two steps."""
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
            or any(read[name] for name in top.output[1:])  # indices into the bank
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
            return BankSearch(cosines=top.input[0], weight=weight, bank=bank, k=k)
    return None


def _suffices(search: BankSearch, coarse: CoarseBank) -> bool:
    """Whether half of the spare candidates suffice for exact answers to test queries.

    A vector of the bank finds itself first, so one more neighbour is compared.
    """
    generator = np.random.default_rng(0)
    bank, count = search.bank, search.k + 1
    own = bank[generator.choice(len(bank), _ASKED, replace=False)]
    asked = np.concatenate([own, generator.normal(size=own.shape).astype(np.float32)])
    cosines = asked @ bank.T
    found = CoarseBank.of(asked, 8).vectors() @ coarse.vectors().T
    chosen = np.argpartition(found, -count - SPARE // 2)[:, -count - SPARE // 2 :]
    among = np.partition(np.take_along_axis(cosines, chosen, axis=1), -count)[:, -count]
    return bool((among == np.partition(cosines, -count)[:, -count]).all())


def reranked(model: onnx.ModelProto, coarse: CoarseBank | None) -> onnx.ModelProto:
    """Return `model` with a two-step search for the nearest vectors of its bank.

    Scoring against a large bank takes as long as reading the bank from memory. So a copy
    in 4 or 8 bits chooses the k + `SPARE` largest cosines; their float32 vectors are
    gathered and ranked again by exact cosines. The score is the same if the true k are
    among the candidates. The gate checks that on real images (`max_score_error`,
    `decision_agreement`); before, `coarse_bank` checks it on the bank's own vectors and
    random directions.

    Milliseconds per image, one step and two steps, k = 1, random directions, ONNX Runtime
    1.31, one thread with VNNI, best of 60:

        vectors x width    batch 1        batch 8        batch 32
        50,000 x 1280      6.83   1.48    1.57   0.59    0.81   0.51
        50,000 x 192       0.76   0.21    0.23   0.15    0.13   0.16
        10,923 x 192       0.095  0.041   0.027  0.040   0.024  0.045
         4,096 x 192       0.037  0.023   0.011  0.019   0.009  0.023
        50,000 x 96        0.37   0.14    0.11   0.12    0.08   0.13
        32,768 x 64        0.101  0.065   0.031  0.072   0.032  0.078

    So two steps are faster for single images, as the CPU serves them, and 10 to 50
    microseconds per image slower from batch 8 or 32 on if the bank is small or narrow.
    After tf_efficientnet_lite0 at 224 pixels, which evicts the bank from the cache,
    50,000 x 192 takes 27 % of the embedding's time in one step and 5 to 10 % in two
    (8 bits: 13 %), at batch 1. On Tiny ImageNet none of 76,000 scores differed by more
    than 1e-6: features of EfficientNet-Lite0 (1280 dimensions; 192 by PCA or projection)
    and of a barely trained student, k = 1 and 10, banks of 14,000, queried with held-out
    images and five other sets. The student needed 8 bits, the others mostly 4.

    File and memory grow by a seventh of the bank in 4 bits, a quarter in 8. Only standard
    operators are written; ONNX Runtime on the CPU fuses the first two to one
    (`MatMulNBits`; 8 bits since 1.25). Its CUDA and TensorRT providers were not measured.

    Args:
        model: as `save_onnx` writes it, in any precision; it is not changed.
        coarse: what `coarse_bank` returns for the float32 graph that `model` comes from.

    Returns:
        A model of the same function; `model` itself if `coarse` is None.
    """
    search = None if coarse is None else _bank_search(model)
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
    """Return the nodes from `embedding` to the candidates' exact cosines."""

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


def _tensors(search: BankSearch, coarse: CoarseBank) -> list[TensorProto]:
    """Return the weights that the nodes of `_nodes` read."""
    codes = coarse.codes.T.astype(helper.tensor_dtype_to_np_dtype(_TYPES[coarse.bits]))
    arrays = {
        "bank": search.bank,
        "codes": codes,
        "scales": np.ascontiguousarray(coarse.scales.T),
        "candidates": np.array([search.k + SPARE]),
        "two": np.array([2]),
    }
    return [numpy_helper.from_array(array, SEARCH + name) for name, array in arrays.items()]
