"""Golden images: a few real ones with the reference's answers, asked before serving."""

import numpy as np
from jaxtyping import Int

from export.parity import ParityImages
from isogon.bundle import GOLDEN, StageWriter, golden_arrays
from isogon.ood import Calibration
from isogon.runtimes import Outputs

_IMAGES = 8
_MARGIN = 1e-3  # of the range of scores; rounding moves them by 1e-6 of it


def write_golden(
    stage: StageWriter, expected: Outputs, images: ParityImages, calibration: Calibration
) -> None:
    """Add `golden.safetensors`: the most and the least familiar images."""
    chosen = _chosen(expected, calibration)
    outputs = Outputs(
        embeddings=expected.embeddings[chosen], ood_scores=expected.ood_scores[chosen]
    )
    stage.write_arrays(GOLDEN, golden_arrays(images.pixels[chosen], outputs))


def _chosen(expected: Outputs, calibration: Calibration) -> Int[np.ndarray, " n"]:
    """Choose images whose decision no rounding flips."""
    scores = expected.ood_scores
    margin = _MARGIN * (scores.max() - scores.min())
    flagged, spared = (calibration.is_ood(scores + d) for d in (margin, -margin))
    order = np.argsort(scores)
    settled = order[(flagged == spared)[order]]
    half = _IMAGES // 2
    return np.unique(np.concatenate([settled[:half], settled[-half:]]))
