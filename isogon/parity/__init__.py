"""Parity: how close two runs of a model are, and the bounds for it. No torch."""

from isogon.parity.figures import (
    Figures as Figures,
    Stability as Stability,
    figures as figures,
    rank_correlation as rank_correlation,
)
from isogon.parity.report import (
    ParityReport as ParityReport,
)
from isogon.parity.report_html import (
    REPORT as REPORT,
    with_parity as with_parity,
)
from isogon.parity.run import (
    Claim as Claim,
    ParityRun as ParityRun,
)
from isogon.parity.tolerance import (
    SIGNS as SIGNS,
    TOLERANCES as TOLERANCES,
    Check as Check,
    Tolerance as Tolerance,
)
