"""Parity: how far two runners' answers are apart, and whether that is allowed."""

from bundle.parity.report import (
    Check as Check,
    Figures as Figures,
    ParityReport as ParityReport,
    Tolerance as Tolerance,
    figures as figures,
)
