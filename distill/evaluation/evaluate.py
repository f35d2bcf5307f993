"""Evaluate: both models on the same images, side by side."""

import hashlib
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from distill.embedding import Embedded
from distill.evaluation.accuracy import BOOTSTRAP, AurocBootstrap
from distill.evaluation.corruptions import CorruptedEmbeddings
from distill.evaluation.measured import Judge, fidelity, measured
from distill.evaluation.ood import detector_key
from distill.evaluation.undistilled import Untrained, by_class, gains
from distill.images.data import Data
from isogon.bundle.evaluation import Cost, Evaluation, Role, Training, UnfamiliarSet
from isogon.images import Preprocessing
from isogon.networks import Student
from isogon.ood import DetectorSpec
from isogon.ood.knn import directions

_WARM_UPS = 3
_RUNS = 20
_SECONDS = 2.0  # at most, once warm


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


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """Return the processor's name; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return (names and names[0]) or platform.processor() or platform.machine() or "CPU"


def evaluate(
    data: Data,
    teacher: Embedded | None,
    student: Embedded,
    *,
    detector: DetectorSpec,
    training: Training,
    same_space: bool = False,
    corrupted: Mapping[Role, CorruptedEmbeddings] | None = None,
    untrained: Untrained | None = None,
    cost: Cost | None = None,
    parts: Mapping[str, slice] | None = None,
) -> Evaluation:
    """Judge the models on the same images and compare their cosines.

    Args:
        data: the images and their classes.
        teacher: its embeddings, where it is at hand; without those of unfamiliar
            images (an empty dictionary) it has no OOD figures.
        student: the student's.
        detector: the recipe's, evaluated beside every other that applies.
        training: how the run went.
        same_space: the student's embeddings live in the teacher's space.
        corrupted: embeddings of corrupted images, by model; empty where not wanted.
        untrained: those of the student's network before training, where it is at hand.
        cost: what an image costs, where it was measured.
        parts: the channels of each of several teachers, by its name.
    """
    bank_labels = data.familiar.labels(data.bank)
    test_labels = data.held_out.labels(data.split.test)
    resamples = {
        name: AurocBootstrap(len(student.test), len(vectors))
        for name, vectors in student.unfamiliar.items()
    }
    corrupted = corrupted or {}
    judge = Judge(
        detector=detector,
        bank_labels=bank_labels,
        test_labels=test_labels,
        resamples=resamples,
        teacher=teacher,
    )
    theirs = before = start = None
    if teacher is not None:
        theirs = measured(teacher, judge, corrupted=corrupted.get("teacher"))
    ours = measured(
        student, judge, same_space=same_space, corrupted=corrupted.get("student")
    )
    if untrained is not None:
        before = measured(untrained.undistilled, judge)
        if untrained.start is not None:
            start = measured(untrained.start, judge)
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


def _part(teacher: Embedded, channels: slice) -> Embedded:
    """Return the embeddings of one of several teachers: theirs are side by side."""
    return Embedded(
        bank=directions(teacher.bank[:, channels]),
        test=directions(teacher.test[:, channels]),
        unfamiliar={},
    )


def _digest(names: list[str]) -> str:
    joined = "\0".join(sorted(names)).encode("utf-8", "surrogateescape")
    return hashlib.sha256(joined).hexdigest()
