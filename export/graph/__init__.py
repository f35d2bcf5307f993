"""The deployed function in torch: what every artifact must compute."""

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
