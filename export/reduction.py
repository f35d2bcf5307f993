"""Reduce the detector's bank in the graph, and measure the change in AUROC."""

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import safetensors.numpy
from jaxtyping import Float

from export.graph import (
    DeployedGraph,
    TorchRunner,
    bank_of,
    banked,
    full_detector,
    with_bank_of,
)
from export.parity import ParityImages
from isogon.bundle import (
    REDUCED,
    REDUCTION,
    Bundle,
    Reduction,
    StageWriter,
    detector_in_force,
)
from isogon.networks import student_from_bundle
from isogon.ood import Detector
from isogon.progress import Progress

_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ReducedBank:
    """A detector with its smaller bank, and the record of the reduction."""

    detector: Detector
    record: Reduction

    def write(self, stage: StageWriter) -> None:
        """Add both to the bundle; from then on `graph_from_bundle` uses them.

        If the bank is whole, the reduction in force is withdrawn.
        """
        if self.record.whole:
            stage.withdraw(REDUCTION)
            stage.withdraw(REDUCED)
        else:
            stage.write(REDUCED, _content(self.detector))
            stage.write(REDUCTION, self.record)


def reduce_bank(bundle: Bundle, size: int, progress: Progress) -> ReducedBank:
    """Reduce the bank of the detector in force to `size` vectors.

    Starts from the whole bank, even if a reduction is in force. A `size` of the whole
    bank or more reduces nothing, and the record says `whole`.

    The AUROC before and after is measured on the bundle's held-out images,
    in-distribution (familiar) against out-of-distribution; None without the latter.

    Raises:
        UsageError: the detector has no bank, or `size` is less than 1.
    """
    folder = detector_in_force(bundle)
    before = banked(full_detector(bundle, folder))
    after = with_bank_of(before, size, progress)
    images = ParityImages.of(bundle)
    embeddings = (
        TorchRunner(DeployedGraph(student_from_bundle(bundle), after))
        .run_all(
            images.pixels,
            _BATCH,
            partial(progress.track, description="Embedding the held-out images"),
        )
        .embeddings
    )
    bank, kept = len(bank_of(before)), len(bank_of(after))
    record = Reduction(
        statistics=bundle.manifest.files[f"{folder}/reference.safetensors"].sha256,
        vectors=hashlib.sha256(_content(after)).hexdigest(),
        bank=bank,
        size=kept,
        k_before=before.k,
        k=after.k,
        familiar=images.familiar,
        unfamiliar=len(embeddings) - images.familiar,
        auroc_before=_auroc(before, embeddings, images.familiar),
        auroc=_auroc(after, embeddings, images.familiar),
    )
    return ReducedBank(detector=after, record=record)


def _content(detector: Detector) -> bytes:
    arrays = detector.arrays().items()
    return safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays})


def _auroc(
    detector: Detector, embeddings: Float[np.ndarray, "n d"], familiar: int
) -> float | None:
    """Return the AUROC of unfamiliar against familiar images; None without unfamiliar."""
    from sklearn.metrics import roc_auc_score  # takes a second to import, rarely needed

    is_unfamiliar = np.arange(len(embeddings)) >= familiar
    if not is_unfamiliar.any():
        return None
    return float(roc_auc_score(is_unfamiliar, detector.score(embeddings)))
