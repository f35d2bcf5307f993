"""The search for the nearest of a large bank: where it is, and how few bits find them."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from jaxtyping import Float32, Int8
from onnx import helper, numpy_helper

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
