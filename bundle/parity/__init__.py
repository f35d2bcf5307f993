"""Parity: how far two runners' answers are apart, and whether that is allowed."""

from bundle.parity.figures import (
    Figures as Figures,
    Stability as Stability,
    figures as figures,
    rank_correlation as rank_correlation,
)
from bundle.parity.report import ParityReport as ParityReport
from bundle.parity.run import Claim as Claim, ParityRun as ParityRun
from bundle.parity.tolerance import (
    SIGNS as SIGNS,
    TOLERANCES as TOLERANCES,
    Check as Check,
    Precision as Precision,
    Tolerance as Tolerance,
)
