"""Runners turn uint8 pixels into embeddings and OOD scores, whatever runs the graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Float32, UInt8

from bundle.errors import BundleError

Pixels = UInt8[np.ndarray, "_ h w 3"]  # any number of images


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a runner says of each image: a unit-norm embedding and an OOD score."""

    embeddings: Float32[np.ndarray, "b d"]
    ood_scores: Float32[np.ndarray, " b"]

    def __len__(self) -> int:
        return len(self.embeddings)


class Runner(ABC):
    """Anything that computes `Outputs` from pixels."""

    name: str  # says what runs where, for reports

    @abstractmethod
    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings and OOD scores of one batch."""

    def run_all(
        self,
        pixels: Pixels,
        batch_size: int,
        track: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> Outputs:
        """Return the outputs of many images, `batch_size` at a time, in order."""
        batches = [
            self.run(pixels[start : start + batch_size])
            for start in track(range(0, len(pixels), batch_size))
        ]
        return Outputs(
            embeddings=np.concatenate([batch.embeddings for batch in batches]),
            ood_scores=np.concatenate([batch.ood_scores for batch in batches]),
        )


# Where an ONNX file keeps the preprocessing its pixels must have gone through.
PREPROCESSING_KEY = "isogon.preprocessing"


class OnnxRunner(Runner):
    """ONNX Runtime on the CPU provider. Safe to call from several threads.

    CUDA and TensorRT providers are not asked for yet: they log errors where no
    device is, and their choice belongs to the export of GPU artifacts.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own classes have no public base
            raise BundleError(
                f"{path} does not load in ONNX Runtime {onnxruntime.__version__}: "
                f"{error} Export it again with `isogon export`."
            ) from error
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != ["images"] or outputs != ["embedding", "ood_score"]:
            raise BundleError(
                f"{path} should map `images` to `embedding` and `ood_score`, "
                f"it maps {inputs} to {outputs}. Export it with `isogon export`."
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.preprocessing: str | None = metadata.get(PREPROCESSING_KEY)
        self.name = f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        embeddings, scores = self._session.run(None, {"images": pixels})
        return Outputs(embeddings=embeddings, ood_scores=scores)
