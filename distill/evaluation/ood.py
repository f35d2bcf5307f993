"""Out-of-distribution (OOD) detection: each detector on each unfamiliar set.

Detectors are fitted on the bank. Familiar images are in-distribution, unfamiliar ones OOD.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from distill.embedding import RoleEmbeddings
from distill.evaluation.accuracy import AurocBootstrap
from isogon.bundle.evaluation import OodFigures
from isogon.errors import UsageError
from isogon.images.collection import Indices
from isogon.ood import Calibration, DetectorSpec, LinearProbe, applicable_detectors


@dataclass(frozen=True, kw_only=True, slots=True)
class OodScores:
    """One detector's scores of one model's embeddings; larger is less familiar."""

    familiar: Float[np.ndarray, " n"]  # of the test images
    unfamiliar: Mapping[str, Float[np.ndarray, " _"]]  # by set
    calibration: Float[np.ndarray, " c"] | None

    def flagged(self, alpha: float) -> dict[str, int] | None:
        """Return how many images of each set are flagged, calibrated as artifacts are.

        None without enough calibration images.
        """
        if self.calibration is None:
            return None
        try:
            calibration = Calibration.from_scores(self.calibration, alpha)
        except UsageError:
            return None
        return {
            name: int(np.count_nonzero(calibration.is_ood(scores)))
            for name, scores in self.unfamiliar.items()
        }


def ood_scores(
    embedded: RoleEmbeddings,
    bank_labels: Indices | None,
    detectors: Mapping[str, DetectorSpec],
    probe: LinearProbe | None,
) -> dict[str, OodScores]:
    """Return the scores of every detector that can be fitted, by its name.

    Args:
        embedded: one model's embeddings.
        bank_labels: the classes of the bank's images, if any.
        detectors: the detectors to fit on the bank, by name.
        probe: a linear probe on this model's bank, for detectors that need one.
    """
    if not embedded.unfamiliar:
        return {}
    found = {}
    for name, spec in detectors.items():
        try:
            detector = spec.fit(embedded.bank, bank_labels, probe=probe)
        except UsageError:  # for example, embeddings that vary in too few directions
            continue
        found[name] = OodScores(
            familiar=detector.score(embedded.test),
            unfamiliar={
                unfamiliar: detector.score(vectors)
                for unfamiliar, vectors in embedded.unfamiliar.items()
            },
            calibration=None
            if embedded.calibration is None
            else detector.score(embedded.calibration),
        )
    return found


def ood_figures(
    scores: Mapping[str, OodScores], resamples: Mapping[str, AurocBootstrap]
) -> dict[str, dict[str, OodFigures]]:
    """Return every detector's figures, by unfamiliar set and then by detector.

    Args:
        scores: by detector.
        resamples: of the test images and each unfamiliar set, by the set's name.
    """
    return {
        name: {
            detector: OodFigures(
                auroc=resamples[name].estimate(one.familiar, one.unfamiliar[name]),
                fpr95_ood_positive=fpr95_ood_positive(one.familiar, one.unfamiliar[name]),
                fpr95_id_positive=fpr95_id_positive(one.familiar, one.unfamiliar[name]),
            )
            for detector, one in scores.items()
        }
        for name in resamples
    }


def detectors_for(
    embedded: RoleEmbeddings, labelled: bool, wanted: DetectorSpec
) -> dict[str, DetectorSpec]:
    """Return the detectors that can be fitted on this model's bank, also `wanted`."""
    bank, width = embedded.bank.shape
    found = applicable_detectors(bank, width, labelled)
    key = detector_key(wanted)
    if key not in found:
        try:
            wanted.require_possible(bank, labelled, width)
        except UsageError:  # possible for the student, but not at the teacher's width
            return found
        found[key] = wanted
    return found


def detector_key(spec: DetectorSpec) -> str:
    """Return a detector's name with the settings that differ from the defaults."""
    key: str = spec.name
    if spec.k is not None or spec.name == "knn":
        key += f"_k{spec.k or 1}"
    return key if spec.dim is None else f"{key}_dim{spec.dim}"


def fpr95_ood_positive(
    familiar: Float[np.ndarray, " n"], unfamiliar: Float[np.ndarray, " u"]
) -> float:
    """Return the share of familiar images flagged when 95 % of unfamiliar ones are.

    OpenOOD's convention (arXiv:2306.09301).
    """
    return float((familiar >= -_passes_95_percent(-unfamiliar)).mean())


def fpr95_id_positive(
    familiar: Float[np.ndarray, " n"], unfamiliar: Float[np.ndarray, " u"]
) -> float:
    """Return the share of unfamiliar images passed when 95 % of familiar ones are.

    The convention of ViM (arXiv:2203.10807), knn-ood (arXiv:2204.06507) and CosPress.
    """
    return float((unfamiliar <= _passes_95_percent(familiar)).mean())


def _passes_95_percent(scores: Float[np.ndarray, " n"]) -> float:
    """Return the smallest score that at least 95 % of the scores do not exceed."""
    needed = -(-19 * len(scores) // 20)  # exact: 0.95 * n would round
    return float(np.partition(scores, needed - 1)[needed - 1])
