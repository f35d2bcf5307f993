"""False alarms over many random calibration splits, in every precision.

For n calibration images and m images to judge, all drawn from the same population, the
number of false alarms follows a beta-binomial law: a threshold at the k-th largest of n
scores flags a share of Beta(k, n + 1 - k), k = floor(alpha (n + 1)), if no scores are equal.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import betabinom
from sklearn.datasets import load_digits

import isogon
from isogon.ood import Calibration

_SPLITS = int(os.environ.get("ISOGON_SPLITS", "100"))
_ALPHA, _CALIBRATED = 0.05, 300


@pytest.fixture(scope="module")
def precisions(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("precisions") / "digits.isogon"
    shutil.copytree(exported, path)
    isogon.export(path, fp16=True, int8=True)
    return path


@pytest.mark.parametrize("file", ["model", "model.fp16", "model.int8"])
def test_false_alarms_stay_within_their_law(precisions: Path, file: str) -> None:
    # None of these digits taught the student or fitted the detector.
    pixels = (load_digits().images[240:] * 255 / 16).astype(np.uint8)
    images = np.repeat(pixels[..., None], 3, axis=3)
    scores = isogon.load(precisions, artifact=f"onnx/{file}.onnx").embed(images).scores
    generator = np.random.default_rng(0)
    judged = len(scores) - _CALIBRATED
    alarms = []
    for _ in range(_SPLITS):
        order = generator.permutation(len(scores))
        split = Calibration.from_scores(scores[order[:_CALIBRATED]], _ALPHA)
        alarms.append(int(split.is_ood(scores[order[_CALIBRATED:]]).sum()))
    kept = int(_ALPHA * (_CALIBRATED + 1))
    law = betabinom(judged, kept, _CALIBRATED + 1 - kept)
    print(
        f"{file}: {np.mean(alarms) / judged:.4f} flagged, expected {law.mean() / judged:.4f}"
    )
    # Splits of one population are not independent, but each of them follows the law.
    inside = np.mean((law.ppf(0.005) <= alarms) & (alarms <= law.ppf(0.995)))
    assert inside >= 0.95
    assert np.mean(alarms) / judged <= _ALPHA + 3 * law.std() / judged / np.sqrt(_SPLITS)
