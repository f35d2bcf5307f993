"""The search for the nearest of a large bank: where it is, and whether int8 finds them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from jaxtyping import Float32, Int8
from onnx import helper, numpy_helper

SPARE = 32  # candidates beside the k that count
SMALLEST = 2**21  # numbers in a bank (10,923 vectors of 192); a smaller one fits a cache
NARROWEST = 96  # numbers in a vector; in narrower ones it is TopK that takes the time
TINY = np.float32(1e-30)  # in place of 0, which divides nothing
_SHARE = 8  # the bank has to have so many times the candidates
_ASKED = 64  # vectors of the bank, and as many random ones, that have to be answered right

Vectors = Float32[np.ndarray, "n d"]
Scales = Float32[np.ndarray, "n 1"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The product with the bank and the TopK behind it, as the exporter writes them."""

    cosines: str  # what the product makes and TopK alone reads
    weight: str
    bank: Vectors  # unit norm for knn, energy times that for NNGuide
    k: int


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


def centred(bank: Vectors) -> Vectors:
    """Return the bank less its mean, which changes an embedding's products alike.

    Embeddings of one student share a direction. Without it int8 has only what tells them
    apart to express, and errs in proportion to that.
    """
    found: np.ndarray = bank - bank.mean(axis=0, dtype=np.float64).astype(np.float32)
    return found


def int8_vectors(vectors: Vectors) -> tuple[Int8[np.ndarray, "n d"], Scales]:
    """Return vectors in int8, and the scale of each."""
    scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True), TINY) / np.float32(127)
    return np.round(vectors / scales).astype(np.int8), scales


def suffices(search: Search, coarse: Vectors) -> bool:
    """Whether half of the spare candidates answer what is asked here as the bank does.

    A vector of the bank finds itself first, hence one neighbour more.
    """
    generator = np.random.default_rng(0)
    bank, count = search.bank, search.k + 1
    own = bank[generator.choice(len(bank), _ASKED, replace=False)]
    asked = np.concatenate([own, generator.normal(size=own.shape).astype(np.float32)])
    cosines = asked @ bank.T
    quantised, scales = int8_vectors(asked)
    found = (quantised * scales) @ coarse.T
    chosen = np.argpartition(found, -count - SPARE // 2)[:, -count - SPARE // 2 :]
    among = np.partition(np.take_along_axis(cosines, chosen, axis=1), -count)[:, -count]
    return bool((among == np.partition(cosines, -count)[:, -count]).all())
