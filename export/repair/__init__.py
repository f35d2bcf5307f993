"""Repair: which nodes to keep in float32, so that a lower precision passes the gate."""

from export.repair.repairing import (
    Repair as Repair,
    Round as Round,
    repaired as repaired,
)
from export.repair.sensitivity import (
    Sensitivity as Sensitivity,
    sensitivities as sensitivities,
)
