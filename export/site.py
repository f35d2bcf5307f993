"""Calibrate: refit the detector on the images of the place where it will run."""

from functools import partial
from pathlib import Path

from rich.progress import Progress

from backbones import student_from_bundle
from bundle import (
    FITTED,
    HELD_OUT,
    REDUCED,
    REDUCTION,
    SITE_DETECTOR,
    THUMBNAILS,
    TRAINING_DETECTOR,
    Bundle,
    DetectorSpec,
    FittedOn,
    ImageFolder,
    Shares,
    Thumbnails,
    detector_spec,
    function_fingerprint,
    split,
)
from bundle.copies import pictures
from bundle.samples import SAMPLES, spread
from export.artifacts import Exported, add_artifacts
from export.deployed import Deployed
from export.graph import Graph, TorchRunner, full_detector
from export.parity import ParityImages, unfamiliar_pixels
from export.plan import ExportPlan

_BATCH = 32


def calibrate(
    bundle: Bundle,
    images: Path,
    progress: Progress,
    *,
    spec: DetectorSpec | None = None,
) -> Exported:
    """Fit the detector on the site's images and export the artifact with it, gated.

    Most images become the detector's bank; the rest, which it never sees, calibrate
    it. The detector fitted in training stays in the bundle beside the site's. Artifacts
    that hold another detector are withdrawn; `Exported.withdrawn` names them.

    Args:
        bundle: a distilled bundle.
        images: a folder of images that are familiar at the site.
        progress: where to show progress.
        spec: another detector or false-alarm rate than the recipe's.

    Raises:
        UsageError: too few images for the false-alarm rate, or images that do not do
            for the detector, such as images without classes.
        ParityFailedError: the new artifact does not pass; the old one stays.
    """
    spec = spec or detector_spec(bundle, TRAINING_DETECTOR)
    folder = ImageFolder.list(images)
    folder.say(progress)
    examined = folder.examined(progress)
    usable = folder.readable(progress, faults=examined.faults)
    roles = split(
        folder,
        usable,
        Shares(test=0.0),
        alpha=spec.alpha,
        pictures=pictures(examined.thumbnails),  # copies must not calibrate the bank
    )
    labels = folder.labels(roles.bank)
    spec.require_bank(len(roles.bank), labels, bundle.manifest.width)
    preprocessing = bundle.manifest.preprocessing
    bank = folder.pixels(roles.bank, preprocessing, progress)
    familiar = folder.pixels(roles.calibration, preprocessing, progress)
    student = student_from_bundle(bundle)
    before = Graph(student, full_detector(bundle, TRAINING_DETECTOR))
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
    with bundle.stage("calibrate") as stage:
        stage.write(f"{SITE_DETECTOR}/detector.json", spec)
        fitted_on = FittedOn(images=folder.where, bank=len(roles.bank))
        stage.write(f"{SITE_DETECTOR}/{FITTED}", fitted_on)
        stage.write_arrays(f"{SITE_DETECTOR}/reference.safetensors", detector.arrays())
        stage.write_arrays(f"{SITE_DETECTOR}/{HELD_OUT}", {"familiar": familiar})
        samples = bank[spread(len(bank))]
        stage.write_arrays(f"{SITE_DETECTOR}/{SAMPLES}", {"familiar": samples})
        if THUMBNAILS in bundle:  # or the recipe asked for none
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
        deployed = Deployed(
            graph=Graph(student, detector),
            fingerprint=function_fingerprint(
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
        return add_artifacts(bundle, exporting, deployed, ExportPlan(), progress)
