"""Repair: choose nodes to keep in float32 so that a lower precision passes the gate."""

from export.repair.repairing import (
    Repair as Repair,
    repaired as repaired,
)
from export.repair.sensitivity import (
    sensitivities as sensitivities,
)
