"""Evaluate: teacher and student on the same images, and what the student costs."""

import hashlib
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from distill.embedding import RoleEmbeddings
from distill.evaluation.accuracy import BOOTSTRAP, AurocBootstrap
from distill.evaluation.corruptions import CorruptedEmbeddings
from distill.evaluation.model_figures import Measurement, fidelity, model_figures
from distill.evaluation.ood import detector_key
from distill.evaluation.undistilled import UntrainedEmbeddings, by_class, gains
from distill.images.data import Data
from isogon.bundle.evaluation import Cost, Evaluation, Role, Training, UnfamiliarSet
from isogon.images import Preprocessing
from isogon.networks import Student
from isogon.ood import DetectorSpec
from isogon.ood.knn import directions

_WARM_UPS = 3
_RUNS = 20
_SECONDS = 2.0  # for all runs together, at most


def evaluate(
    data: Data,
    teacher: RoleEmbeddings | None,
    student: RoleEmbeddings,
    *,
    detector: DetectorSpec,
    training: Training,
    same_space: bool = False,
    corrupted: Mapping[Role, CorruptedEmbeddings] | None = None,
    untrained: UntrainedEmbeddings | None = None,
    cost: Cost | None = None,
    parts: Mapping[str, slice] | None = None,
) -> Evaluation:
    """Measure the models on the same images and compare their cosines.

    Args:
        data: the images and their classes.
        teacher: its embeddings, if available; without embeddings of unfamiliar
            (out-of-distribution) images it has no OOD figures.
        student: its embeddings.
        detector: the recipe's; all other detectors that can be fitted are evaluated too.
        training: the log of the run.
        same_space: whether the student's embeddings are in the teacher's space.
        corrupted: embeddings of corrupted images, by model; empty if not wanted.
        untrained: embeddings of the student's network before training, if available.
        cost: weights and time of the student, if measured.
        parts: the channels of each of several teachers, by name.
    """
    bank_labels = data.familiar.labels(data.bank)
    test_labels = data.held_out.labels(data.split.test)
    resamples = {
        name: AurocBootstrap(len(student.test), len(vectors))
        for name, vectors in student.unfamiliar.items()
    }
    corrupted = corrupted or {}
    measurement = Measurement(
        detector=detector,
        bank_labels=bank_labels,
        test_labels=test_labels,
        resamples=resamples,
        teacher=teacher,
    )
    theirs = before = start = None
    if teacher is not None:
        theirs = model_figures(teacher, measurement, corrupted=corrupted.get("teacher"))
    ours = model_figures(
        student, measurement, same_space=same_space, corrupted=corrupted.get("student")
    )
    if untrained is not None:
        before = model_figures(untrained.undistilled, measurement)
        if untrained.start is not None:
            start = model_figures(untrained.start, measurement)
    flagged = None if ours.scores is None else ours.scores.flagged(detector.alpha)
    return Evaluation(
        bank_images=len(data.bank),
        test_images=len(data.split.test),
        test_digest=_digest([data.held_out.names[index] for index in data.split.test]),
        unfamiliar={
            name: UnfamiliarSet(
                images=len(each.flaggable),
                kind=each.kind,
                flagged=None if flagged is None else flagged[name],
            )
            for name, each in data.unfamiliar.items()
        },
        detector=detector_key(detector),
        bootstrap=BOOTSTRAP,
        fidelity=ours.fidelity,
        fidelity_to_each={
            name: fidelity(_part(teacher, channels), student, same_space=False)
            for name, channels in (parts or {}).items()
            if teacher is not None
        },
        teacher=None if theirs is None else theirs.quality,
        student=ours.quality,
        training=training,
        undistilled=None if before is None else before.baseline,
        start=None if start is None else start.baseline,
        pretrained=None if untrained is None else untrained.pretrained,
        gains={} if before is None else gains(ours, before, resamples),
        classes=by_class(test_labels, data.held_out.classes, ours, before, theirs),
        cost=cost,
        copies=data.copies,
    )


def cost_of(student: Student, preprocessing: Preprocessing, device: torch.device) -> Cost:
    """Return the bytes of the student's weights and the time of a batch of one."""
    shape = (1, preprocessing.height, preprocessing.width, 3)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)

    def seconds() -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            student.embed(pixels).cpu()  # waits for the device
        return time.perf_counter() - begun

    for _ in range(_WARM_UPS):
        seconds()
    taken = [seconds()]
    while len(taken) < _RUNS and sum(taken) < _SECONDS:
        taken.append(seconds())
    state = student.state_dict().values()
    return Cost(
        weights_bytes=sum(value.numel() * value.element_size() for value in state),
        milliseconds=1000 * statistics.median(taken),
        machine=_machine(device),
    )


def _part(teacher: RoleEmbeddings, channels: slice) -> RoleEmbeddings:
    """Return the embeddings of one of several teachers: its channels, normalised."""
    return RoleEmbeddings(
        bank=directions(teacher.bank[:, channels]),
        test=directions(teacher.test[:, channels]),
        unfamiliar={},
    )


def _digest(names: list[str]) -> str:
    joined = "\0".join(sorted(names)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(joined).hexdigest()


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """Return the processor's name, or its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return (names and names[0]) or platform.processor() or platform.machine() or "CPU"
