"""Embed images and judge them with onnxruntime, numpy and Pillow: edge.py MODEL IMAGE..."""

import json
import os  # before ONNX Runtime, which else reports every session to Microsoft
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime


def pixels(path: str, height: int, width: int, crop: float) -> np.ndarray:
    """Return the image upright, in RGB: its centred box, resized to the model's size."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    scale = crop * min(image.width / width, image.height / height)
    w, h = min(width * scale, image.width), min(height * scale, image.height)
    left, top = (image.width - w) / 2, (image.height - h) / 2
    box = (left, top, left + w, top + h)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box))


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    size = json.loads(metadata["isogon.preprocessing"])
    calibration = json.loads(metadata["isogon.calibration"])
    familiar = np.array(calibration["scores"])  # OOD scores; larger = less familiar
    for path in sys.argv[2:]:
        image = pixels(path, size["height"], size["width"], size["crop"])[np.newaxis]
        (embedding,), (score,) = session.run(None, {"images": image})
        p = (1 + np.sum(familiar >= score)) / (len(familiar) + 1)
        verdict = "unfamiliar" if p <= calibration["alpha"] else "familiar"
        print(f"{path}  p = {p:.4f}  {verdict}  {embedding[:4].tolist()} ...")
