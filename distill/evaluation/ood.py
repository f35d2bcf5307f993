"""OOD detection: each detector, fitted on the bank, against each unfamiliar set."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from bundle import DetectorSpec, LinearProbe, UsageError, applicable_detectors
from bundle.collection import Indices
from bundle.evaluation import OodFigures
from distill.embedding import Embedded
from distill.evaluation.bootstrap import AurocBootstrap


def ood_figures(
    embedded: Embedded,
    bank_labels: Indices | None,
    detectors: Mapping[str, DetectorSpec],
    resamples: Mapping[str, AurocBootstrap],
    probe: LinearProbe | None,
) -> dict[str, dict[str, OodFigures]]:
    """Return every detector's figures, by unfamiliar set and then by detector.

    Args:
        embedded: one model's embeddings.
        bank_labels: the classes of the bank, where there are any.
        detectors: what to fit on the bank, by name.
        resamples: of the test images and each unfamiliar set, by the set's name.
        probe: of this model's bank, for the detectors that need one.
    """
    if not embedded.unfamiliar:
        return {}
    figures: dict[str, dict[str, OodFigures]] = {name: {} for name in embedded.unfamiliar}
    for detector_name, spec in detectors.items():
        try:
            detector = spec.fit(embedded.bank, bank_labels, probe=probe)
        except UsageError:  # embeddings that vary in too few directions, say
            continue
        familiar = detector.score(embedded.test)
        for name, embeddings in embedded.unfamiliar.items():
            unfamiliar = detector.score(embeddings)
            figures[name][detector_name] = OodFigures(
                auroc=resamples[name].estimate(familiar, unfamiliar),
                fpr95_ood_positive=fpr95_ood_positive(familiar, unfamiliar),
                fpr95_id_positive=fpr95_id_positive(familiar, unfamiliar),
            )
    return figures


def detectors_for(
    embedded: Embedded, labelled: bool, wanted: DetectorSpec
) -> dict[str, DetectorSpec]:
    """Return what can be fitted on this model's bank, `wanted` included if it can."""
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
    """Return a detector's name with the settings that differ from the usual ones."""
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
    needed = -(-19 * len(scores) // 20)  # exactly, where 0.95 * n would round
    return float(np.partition(scores, needed - 1)[needed - 1])
