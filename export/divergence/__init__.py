"""Divergence: find the first node at which an artifact differs from the reference."""

from export.divergence.compare import (
    BOUNDS as BOUNDS,
    first_divergence as first_divergence,
)
from export.divergence.modules import module_divergence as module_divergence
from export.divergence.node_errors import (
    Divergence as Divergence,
    NodeError as NodeError,
)
from export.divergence.of_bundle import (
    divergence_of as divergence_of,
)
from export.divergence.tensors import StoredRunner as StoredRunner, as_stored as as_stored
