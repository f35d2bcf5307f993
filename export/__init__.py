"""Export: turn a bundle's student into artifacts; each must pass parity on real images.

A name is imported when it is used. Only the plan of an export is quick to import; all else
loads torch, which takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.artifacts import Exported as Exported, export_bundle as export_bundle
    from export.calibration import (
        Detection as Detection,
        calibrate as calibrate,
        detection as detection,
    )
    from export.divergence import Divergence as Divergence, divergence_of as divergence_of
    from export.gate import latency as latency
    from export.graph import (
        TorchRunner as TorchRunner,
        graph_from_bundle as graph_from_bundle,
    )
    from export.parity import ParityFailedError as ParityFailedError
    from export.plan import (
        FINETUNING_STEPS as FINETUNING_STEPS,
        ExportPlan as ExportPlan,
        lower_precisions as lower_precisions,
        tolerances as tolerances,
    )
    from export.verification import Verified as Verified, verify as verify
    from export.weights import (
        PlainWeights as PlainWeights,
        export_weights as export_weights,
    )

_WHERE = {
    "artifacts": ("Exported", "export_bundle"),
    "calibration": ("Detection", "calibrate", "detection"),
    "divergence": ("Divergence", "divergence_of"),
    "gate": ("latency",),
    "graph": ("TorchRunner", "graph_from_bundle"),
    "parity": ("ParityFailedError",),
    "plan": ("FINETUNING_STEPS", "ExportPlan", "lower_precisions", "tolerances"),
    "verification": ("Verified", "verify"),
    "weights": ("PlainWeights", "export_weights"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"export.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
