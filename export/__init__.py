"""Export: turn a bundle's student into artifacts; each must pass parity on real images."""

from export.artifacts import Exported as Exported, export_bundle as export_bundle
from export.calibration import (
    Detection as Detection,
    calibrate as calibrate,
    detection as detection,
)
from export.divergence import Divergence as Divergence, divergence_of as divergence_of
from export.finetuning import FINETUNING_STEPS as FINETUNING_STEPS
from export.gate import latency as latency
from export.graph import (
    TorchRunner as TorchRunner,
    graph_from_bundle as graph_from_bundle,
)
from export.parity import ParityFailedError as ParityFailedError
from export.plan import (
    ExportPlan as ExportPlan,
    lower_precisions as lower_precisions,
    tolerances as tolerances,
)
from export.verification import Verified as Verified, verify as verify
from export.weights import (
    PlainWeights as PlainWeights,
    export_weights as export_weights,
)
