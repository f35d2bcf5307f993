"""Plain FastAPI: one function that FastAPI runs in its threads, with uvicorn.

PEER_BUNDLE=my.isogon PEER_THREADS=1 \
        uvicorn --app-dir benchmarks/peers --workers 2 fastapi_server:app
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, UploadFile

from isogon.bundle import ONNX, Bundle
from isogon.images import decode
from isogon.runtimes import OnnxRunner

bundle = Bundle.open(Path(os.environ["PEER_BUNDLE"]))
runner = OnnxRunner(bundle.file(ONNX), threads=int(os.environ["PEER_THREADS"]))
preprocessing = bundle.manifest.preprocessing

app = FastAPI()


@app.post("/embed")
def embed(images: list[UploadFile]) -> dict[str, Any]:
    """Return embedding and OOD score of each image."""
    pixels = [preprocessing.pixels(decode(image.file.read())) for image in images]
    outputs = runner.run(np.stack(pixels))
    return {
        "embeddings": outputs.embeddings.tolist(),
        "ood_scores": outputs.ood_scores.tolist(),
    }


@app.get("/health")
def health() -> str:
    """Answer that the model is loaded."""
    return "ok"
