"""The plain BentoML service: a batchable method over images, as in its documentation.

    PEER_BUNDLE=my.isogon PEER_WORKERS=1 PEER_THREADS=2 \
        bentoml serve plain_bentoml:Plain --working-dir benchmarks/peers

Typed inputs and adaptive batching with its default limits, metrics and access log as they
are by default. The preprocessing and the session are the bundle's.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image

from isogon.bundle import ONNX, Bundle
from isogon.runtimes import OnnxRunner


@bentoml.service(workers=int(os.environ["PEER_WORKERS"]), traffic={"timeout": 60})
class Plain:
    """One ONNX model."""

    def __init__(self) -> None:
        bundle = Bundle.open(Path(os.environ["PEER_BUNDLE"]))
        threads = int(os.environ["PEER_THREADS"])
        self._runner = OnnxRunner(bundle.file(ONNX), threads=threads)
        self._preprocessing = bundle.manifest.preprocessing

    @bentoml.api(batchable=True)
    def embed(self, images: list[Image]) -> list[dict[str, Any]]:
        """Return embedding and OOD score of each image."""
        pixels = [self._preprocessing.pixels(image.convert("RGB")) for image in images]
        outputs = self._runner.run(np.stack(pixels))
        return [
            {"embedding": embedding.tolist(), "ood_score": float(score)}
            for embedding, score in zip(outputs.embeddings, outputs.ood_scores, strict=True)
        ]
