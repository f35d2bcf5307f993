"""The deployed function in torch, which every artifact must compute."""

from export.graph.coreset import (
    bank_of as bank_of,
    banked as banked,
    with_bank_of as with_bank_of,
)
from export.graph.reference import (
    DeployedGraph as DeployedGraph,
    TorchRunner as TorchRunner,
    full_detector as full_detector,
    graph_from_bundle as graph_from_bundle,
)
