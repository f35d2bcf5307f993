"""The time that the OOD score of a large bank adds to the embedding."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.utils import Extractor
from runners import interleaved

from isogon.bundle import Bundle
from isogon.ood import Knn
from isogon.runtimes import Outputs, Pixels, Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorCost:
    """Milliseconds per image and the score's share of them, medians over rounds."""

    vectors: int
    width: int
    batch: int
    embedding: float
    share: float  # time that the score adds / the embedding's time, as exported
    plain: float  # the same with the search in float32 only


class _Session(Runner):
    """A session whose graph may have no score output."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.name = path.name

    def run(self, pixels: Pixels) -> Outputs:
        embeddings, *rest = self._session.run(None, {"images": pixels})
        scores = rest[0] if rest else np.zeros(len(embeddings), np.float32)
        return Outputs(embeddings=embeddings, ood_scores=scores)


def detector_costs(
    path: Path,
    folder: Path,
    *,
    vectors: int,
    batches: Sequence[int],
    rounds: int,
    seconds: float,
) -> list[DetectorCost]:
    """Measure a bundle's student with a knn bank of `vectors` vectors, on one thread.

    Args:
        path: of the bundle.
        folder: where the graphs are written.
        vectors: size of the bank; random directions.
        batches: batch sizes to measure.
        rounds: rounds that alternate between the graphs.
        seconds: per graph in a round.
    """
    bundle = Bundle.open(path)
    width = bundle.manifest.width
    graphs = _graphs(bundle, folder, vectors)
    runners = {name: _Session(graph, 1) for name, graph in graphs.items()}
    pixels = bundle.arrays("held_out.safetensors")["familiar"]
    found = []
    for batch in batches:
        shown = np.resize(pixels, (batch, *pixels.shape[1:]))
        times = interleaved(runners, shown, rounds=rounds, seconds=seconds)
        added = {
            name: statistics.median(
                one / two - 1 for one, two in zip(times[name], times["bare"], strict=True)
            )
            for name in ("whole", "plain")
        }
        found.append(
            DetectorCost(
                vectors=vectors,
                width=width,
                batch=batch,
                embedding=statistics.median(times["bare"]),
                share=added["whole"],
                plain=added["plain"],
            )
        )
    return found


def _graphs(bundle: Bundle, folder: Path, vectors: int) -> dict[str, Path]:
    """Write the student with the bank, as exported and plain, and without its score."""
    from export.graph import DeployedGraph
    from export.onnx import coarse_bank, reranked, save_onnx
    from isogon.networks import student_from_bundle

    graphs = {name: folder / f"{name}.onnx" for name in ("whole", "plain", "bare")}
    detector = Knn(bank=_unit_vectors(vectors, bundle.manifest.width), k=1)
    graph = DeployedGraph(student_from_bundle(bundle), detector)
    save_onnx(graph, bundle.manifest.preprocessing, graphs["plain"])
    plain = onnx.load(graphs["plain"])
    onnx.save(reranked(plain, coarse_bank(plain)), graphs["whole"])
    onnx.save(Extractor(plain).extract_model(["images"], ["embedding"]), graphs["bare"])
    return graphs


def _unit_vectors(count: int, width: int) -> np.ndarray:
    """Return random directions as a bank, [count, width] float32."""
    vectors = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found
