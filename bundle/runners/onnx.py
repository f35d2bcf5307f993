"""ONNX Runtime as a runner."""

from pathlib import Path

import onnxruntime

from bundle.errors import BundleError
from bundle.runners.runner import Outputs, Pixels, Runner

# Where an ONNX file keeps what makes it stand alone; `bundle.metadata` says what it is.
PREPROCESSING_KEY = "isogon.preprocessing"
CALIBRATION_KEY = "isogon.calibration"
FINGERPRINT_KEY = "isogon.fingerprint"


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
        self.metadata: dict[str, str] = metadata
        self.preprocessing: str | None = metadata.get(PREPROCESSING_KEY)
        self.name = f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"

    def run(self, pixels: Pixels) -> Outputs:
        """Return embeddings [b, d] and OOD scores [b] of one batch."""
        embeddings, scores = self._session.run(None, {"images": pixels})
        return Outputs(embeddings=embeddings, ood_scores=scores)
