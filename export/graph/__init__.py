"""The deployed function in torch: what every artifact must compute."""

from bundle import (
    SITE_DETECTOR as SITE_DETECTOR,
    TRAINING_DETECTOR as TRAINING_DETECTOR,
    detector_in_force as detector_in_force,
    detector_spec as detector_spec,
)
from export.graph.coreset import (
    bank_of as bank_of,
    banked as banked,
    with_bank_of as with_bank_of,
)
from export.graph.deployed import (
    Graph as Graph,
    TorchRunner as TorchRunner,
    full_detector as full_detector,
    graph_from_bundle as graph_from_bundle,
)
