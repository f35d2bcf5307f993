"""Calibrate the detector on images of the site where it runs; count what it flags."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from export.artifacts import Exported, add_artifacts
from export.deployed import DeployedFunction
from export.graph import DeployedGraph, TorchRunner, full_detector
from export.parity import ParityImages, unfamiliar_pixels
from export.plan import PRECISIONS, ExportPlan
from export.withdrawal import is_whole
from isogon.bundle import (
    FITTED,
    HELD_OUT,
    REDUCED,
    REDUCTION,
    SITE_DETECTOR,
    THUMBNAILS,
    TRAINING_DETECTOR,
    Bundle,
    FittedOn,
    Thumbnails,
    detector_spec,
    function_digest,
    onnx_name,
    parity_name,
    vouched_artifact,
)
from isogon.bundle.names import found_place, portable_place
from isogon.images import ImageFolder, Images, Shares, open_images, split
from isogon.images.collection import SAMPLES, spread
from isogon.images.copies import pictures
from isogon.networks import student_from_bundle
from isogon.ood import DetectorSpec
from isogon.parity import TOLERANCES, ParityReport
from isogon.progress import Progress, say
from isogon.runtimes import OnnxRunner, Precision

_BATCH = 32
_DETECTED_AT_ONCE = 8
_SAME = 1 - 1e-5  # cosine of an image with itself, up to rounding
# Share of the thumbnails that may match by chance: blank images, duplicates.
_BY_CHANCE = 0.1


def calibrate(
    bundle: Bundle,
    images: Path,
    progress: Progress,
    *,
    spec: DetectorSpec | None = None,
) -> Exported:
    """Fit the detector on the site's images and export the ONNX files with it.

    Most images become the detector's bank; the rest calibrate it. The detector from
    training stays in the bundle, next to the site's. The bundle's ONNX files are made
    again and judged by the bounds they passed before. Engines hold the old detector, so
    they are withdrawn: `Exported.withdrawn` names them.

    Args:
        bundle: a distilled bundle.
        images: a folder of in-distribution (familiar) images of the site. A warning is
            shown if the student was trained on them.
        progress: where to show progress.
        spec: detector and false-alarm rate; None: the recipe's.

    Raises:
        UsageError: too few images for the false-alarm rate, or images unusable for the
            detector, such as images without classes.
        ParityFailedError: the new float32 file does not pass; the old one stays.
    """
    spec = spec or detector_spec(bundle, TRAINING_DETECTOR)
    preprocessing = bundle.manifest.preprocessing
    folder = ImageFolder.list(images).ranging(preprocessing.range)
    folder.say(progress)
    examined = folder.examined(progress)
    usable = folder.readable(progress, faults=examined.faults)
    roles = split(
        folder,
        usable,
        Shares(test=0.0),
        alpha=spec.alpha,
        # Copies of an image stay on one side of the split.
        pictures=pictures(examined.thumbnails),
    )
    labels = folder.labels(roles.bank)
    spec.require_bank(len(roles.bank), labels, bundle.manifest.width)
    bank = folder.pixels(roles.bank, preprocessing, progress)
    familiar = folder.pixels(roles.calibration, preprocessing, progress)
    student = student_from_bundle(bundle)
    before = DeployedGraph(student, full_detector(bundle, TRAINING_DETECTOR))
    embeddings = (
        TorchRunner(before)
        .run_all(
            bank,
            _BATCH,
            partial(progress.track, description="Embedding the bank"),
        )
        .embeddings
    )
    detector = spec.fit(embeddings, labels)
    _say_if_learnt(bundle, folder, embeddings, progress)
    with bundle.stage("calibrate") as stage:
        stage.write(f"{SITE_DETECTOR}/detector.json", spec)
        where = portable_place(folder.where, bundle.path.parent)
        fitted_on = FittedOn(images=where, bank=len(roles.bank))
        stage.write(f"{SITE_DETECTOR}/{FITTED}", fitted_on)
        stage.write_arrays(f"{SITE_DETECTOR}/reference.safetensors", detector.arrays())
        stage.write_arrays(f"{SITE_DETECTOR}/{HELD_OUT}", {"familiar": familiar})
        samples = bank[spread(len(bank))]
        stage.write_arrays(f"{SITE_DETECTOR}/{SAMPLES}", {"familiar": samples})
        if THUMBNAILS in bundle:  # the recipe may ask for none
            limit = len(Thumbnails.load(bundle.file(THUMBNAILS), student.width))
            chosen = spread(len(bank), limit)
            thumbnails = Thumbnails.of(
                bank[chosen],
                embeddings[chosen],
                None
                if labels is None
                else [folder.classes[number] for number in labels[chosen]],
            )
            stage.write(f"{SITE_DETECTOR}/{THUMBNAILS}", thumbnails.to_bytes())
        deployed = DeployedFunction(
            graph=DeployedGraph(student, detector),
            function=function_digest(
                bundle.manifest,
                detector=stage.sha256(f"{SITE_DETECTOR}/detector.json"),
                statistics=stage.sha256(f"{SITE_DETECTOR}/reference.safetensors"),
                reduction=None,
            ),
            preprocessing=preprocessing,
            images=ParityImages.joined(
                familiar, unfamiliar_pixels(bundle), alpha=spec.alpha
            ),
            samples=lambda: samples,
            reduction=None,
        )
        exporting = stage.also("export")
        for name in (REDUCTION, REDUCED):  # of another detector's bank
            if name in bundle:
                exporting.withdraw(name)
        return add_artifacts(bundle, exporting, deployed, _as_before(bundle), progress)


def _as_before(bundle: Bundle) -> ExportPlan:
    """Return the plan that makes the bundle's ONNX files again."""
    lower: list[Precision] = []
    bounds = dict(TOLERANCES)
    for precision in PRECISIONS:
        name = onnx_name(precision)
        if not is_whole(bundle, name) or parity_name(name) not in bundle:
            continue
        bounds[precision] = bundle.record(parity_name(name), ParityReport).tolerance
        if precision != "fp32":
            lower.append(precision)
    return ExportPlan(lower=tuple(lower), tolerances=bounds)


def _say_if_learnt(
    bundle: Bundle,
    images: Images,
    embeddings: Float32[np.ndarray, "n d"],
    progress: Progress,
) -> None:
    """Warn if the student was trained on these images: their OOD scores are too low.

    They are recognised by their folder, or by the embeddings kept with the thumbnails.
    """
    known = 0
    if THUMBNAILS in bundle:
        kept = Thumbnails.load(bundle.file(THUMBNAILS), embeddings.shape[1]).embeddings
        known = int(((embeddings @ kept.T).max(axis=0) > _SAME).sum())
        known = known if known > _BY_CHANCE * len(kept) else 0
    trained_on = found_place(bundle.manifest.provenance.images, bundle.path.parent)
    at_home = Path(trained_on).expanduser().resolve() == Path(images.where).resolve()
    if not known and not at_home:
        return
    which = f"{known:,} of the bundle's thumbnails are" if known else "They are"
    say(
        progress,
        f"Warning: the student was trained on images in {images.where}. {which} among its "
        f"training images, whose OOD scores are lower than those of new images: new "
        f"familiar images will be flagged more often than alpha says. Calibrate on images "
        f"of the site that it was not trained on.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """How many out-of-distribution (unfamiliar) images the float32 file flags."""

    where: str  # the folder of the images, or "the bundle"
    images: int
    flagged: int
    alpha: float  # the false-alarm rate of the threshold

    @property
    def sentence(self) -> str:
        """The figures in a sentence."""
        share = f"{self.flagged / self.images:.0%}"
        return (
            f"Flags {self.flagged:,} of {self.images:,} ({share}) unfamiliar images, those "
            f"of {self.where}, at alpha = {self.alpha:g}."
        )

    def as_document(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)


def detection(
    bundle: Bundle, progress: Progress, *, unfamiliar: str | None = None
) -> Detection | None:
    """Count the unfamiliar images that the bundle's float32 ONNX file flags.

    Args:
        bundle: an exported bundle.
        progress: where to show progress and unreadable images.
        unfamiliar: a folder of them; None: those that the bundle keeps from training.

    Returns:
        The figures; None if the bundle keeps no such images and none are named.

    Raises:
        UsageError: there are no images.
        UnvouchedArtifactError: the bundle has no such file.
    """
    artifact = vouched_artifact(bundle)
    if unfamiliar is None:
        pixels, where = unfamiliar_pixels(bundle), "the bundle"
    else:
        images = open_images(unfamiliar)
        readable = images.readable(progress)
        pixels = images.pixels(readable, bundle.manifest.preprocessing, progress)
        where = images.where
    if pixels is None:
        return None
    scores = (
        OnnxRunner(artifact.path)
        .run_all(
            pixels, _DETECTED_AT_ONCE, partial(progress.track, description="Detecting")
        )
        .ood_scores
    )
    return Detection(
        where=where,
        images=len(scores),
        flagged=int(artifact.calibration.is_ood(scores).sum()),
        alpha=artifact.calibration.alpha,
    )
