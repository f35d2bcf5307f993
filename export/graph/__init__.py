"""The deployed function in torch: what every artifact must compute."""

from export.graph.deployed import (
    SITE_DETECTOR as SITE_DETECTOR,
    TRAINING_DETECTOR as TRAINING_DETECTOR,
    Graph as Graph,
    TorchRunner as TorchRunner,
    detector_in_force as detector_in_force,
    detector_spec as detector_spec,
    graph_from_bundle as graph_from_bundle,
)
from export.graph.detectors import module_from_detector as module_from_detector
