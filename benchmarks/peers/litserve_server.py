"""LitServe: an API with decode, predict and encode, a worker process for each core.

    PEER_BUNDLE=my.isogon PEER_WORKERS=2 PEER_THREADS=1 \
        python benchmarks/peers/litserve_server.py 8000

As its documentation advises for CPUs and for more than a hundred requests a second:
`workers_per_device` is the number of cores, `fast_queue` is on where ZeroMQ is installed.
No batching: on a CPU the workers already fill the cores.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import litserve
import numpy as np
from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from isogon.bundle import ONNX, Bundle
from isogon.images import decode
from isogon.runtimes import OnnxRunner, Outputs


class Embedding(litserve.LitAPI):
    """One ONNX model."""

    def setup(self, device: str) -> None:
        """Load the model, once in each worker."""
        bundle = Bundle.open(Path(os.environ["PEER_BUNDLE"]))
        threads = int(os.environ["PEER_THREADS"])
        self._runner = OnnxRunner(bundle.file(ONNX), threads=threads)
        self._preprocessing = bundle.manifest.preprocessing

    def decode_request(self, request: Request) -> np.ndarray:
        """Return the pixels of the images, [b, h, w, 3], of an uploaded form."""
        files = cast(FormData, request).getlist("images")
        images = [decode(cast(UploadFile, file).file.read()) for file in files]
        return np.stack([self._preprocessing.pixels(image) for image in images])

    def predict(self, x: np.ndarray) -> Outputs:
        """Return embeddings and OOD scores."""
        return self._runner.run(x)

    def encode_response(self, output: Outputs) -> dict[str, Any]:
        """Return the answer for JSON."""
        return {
            "embeddings": output.embeddings.tolist(),
            "ood_scores": output.ood_scores.tolist(),
        }


if __name__ == "__main__":
    litserve.LitServer(
        Embedding(),
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        fast_queue=find_spec("zmq") is not None,
    ).run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
    )
