"""Export: a bundle's student as artifacts, each gated by parity on real images."""

from export.artifacts import export_onnx as export_onnx, verify as verify
from export.graph import (
    TRAINING_DETECTOR as TRAINING_DETECTOR,
    TorchRunner as TorchRunner,
    detector_spec as detector_spec,
    graph_from_bundle as graph_from_bundle,
)
from export.latency import latency as latency
from export.parity import ParityFailedError as ParityFailedError
from export.site import calibrate as calibrate
