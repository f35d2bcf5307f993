"""The evaluation in `/v1/model`: student, teacher, network before training, detection."""

from pydantic import BaseModel, Field

from isogon.bundle import ServedDetector
from isogon.bundle.evaluation import Baseline, Estimate, Evaluation, Fidelity, Kind, Quality
from isogon.bundle.false_alarms import detection_sentence
from isogon.bundle.worth import Verdict, worth_of
from serving.served_model import Evaluated


class FiguresCard(BaseModel):
    """Figures of one network's embeddings; null or absent: not measured."""

    knn_accuracy: Estimate | None = Field(
        description="of the 10 nearest neighbours; null without classes"
    )
    neighbour_overlap: float | None = Field(
        description="share of the teacher's 10 nearest neighbours that are the student's "
        "too; null for the teacher itself"
    )
    angle_distortion: float | None = Field(
        description="mean difference of a cosine from the teacher's; null for the teacher "
        "itself"
    )
    auroc: dict[str, Estimate] = Field(
        description="by unfamiliar set, of the detector in `detection`"
    )


class UnfamiliarCard(BaseModel):
    """One set of images that should be flagged."""

    kind: Kind = Field(
        description="near: similar images, hard to detect; far: very different"
    )
    images: int
    flagged: int | None = Field(
        description="how many were flagged at `alpha`; null: not counted"
    )
    auroc: Estimate | None = Field(
        description="chance that one of them scores higher than a familiar "
        "(in-distribution) image"
    )


class DetectionCard(BaseModel):
    """How well the detector fitted in training detects unfamiliar images."""

    sentence: str | None = Field(
        description="the share flagged, in words; null if it was not counted",
        examples=["Flags 70 % of 105 unfamiliar images."],
    )
    detector: str = Field(description="the detector that was measured, and its settings")
    alpha: float = Field(description="the false-alarm rate at which it flagged")
    served: ServedDetector = Field(
        description="same: this detector answers; site: `isogon calibrate` has fitted "
        "another one since, and these figures are not of that one; reduced: it answers "
        "with the smaller bank of `isogon export --bank`"
    )
    sets: dict[str, UnfamiliarCard]


class DistillationCard(BaseModel):
    """Whether the student is better than the same network before training."""

    verdict: Verdict = Field(description="unknown: that network was not measured")
    sentence: str = Field(description="the verdict with its figures")
    pretrained: bool | None = Field(
        description="whether that network had pretrained weights; null: not known"
    )
    gains: dict[str, Estimate] = Field(
        description="student minus undistilled on the same images, by figure; for angle "
        "distortion lower is better"
    )


class EvaluationCard(BaseModel):
    """The student's figures, measured in PyTorch when it was distilled or evaluated.

    `parity` has the difference between the artifact and that student.
    """

    test_images: int = Field(description="neither training nor calibration used them")
    bank_images: int = Field(description="images that they are compared with")
    student: FiguresCard
    teacher: FiguresCard | None
    undistilled: FiguresCard | None = Field(
        description="the student's network before training, at the same width"
    )
    start: FiguresCard | None = Field(
        description="the student after the closed-form start, before any step"
    )
    distillation: DistillationCard
    detection: DetectionCard | None = Field(description="null without unfamiliar images")


def evaluation_card(evaluated: Evaluated) -> EvaluationCard:
    """Return the evaluation of a bundle for `/v1/model`."""
    found = evaluated.evaluation
    return EvaluationCard(
        test_images=found.test_images,
        bank_images=found.bank_images,
        student=_figures(found, found.student, found.fidelity),
        teacher=None if found.teacher is None else _figures(found, found.teacher, None),
        undistilled=_baseline(found, found.undistilled),
        start=_baseline(found, found.start),
        distillation=_distillation(found),
        detection=_detection(evaluated) if found.unfamiliar else None,
    )


def _figures(found: Evaluation, quality: Quality, fidelity: Fidelity | None) -> FiguresCard:
    sets = {name: found.auroc_in_force(quality, name) for name in found.unfamiliar}
    return FiguresCard(
        knn_accuracy=quality.knn_accuracy,
        neighbour_overlap=None if fidelity is None else fidelity.neighbour_overlap,
        angle_distortion=None if fidelity is None else fidelity.angle_distortion,
        auroc={name: auroc for name, auroc in sets.items() if auroc is not None},
    )


def _baseline(found: Evaluation, baseline: Baseline | None) -> FiguresCard | None:
    if baseline is None:
        return None
    return _figures(found, baseline.quality, baseline.fidelity)


def _distillation(found: Evaluation) -> DistillationCard:
    worth = worth_of(found)
    return DistillationCard(
        verdict=worth.verdict,
        sentence=worth.sentence,
        pretrained=found.pretrained,
        gains=found.gains,
    )


def _detection(evaluated: Evaluated) -> DetectionCard:
    found = evaluated.evaluation
    return DetectionCard(
        sentence=detection_sentence(found),
        detector=found.detector,
        alpha=evaluated.alpha,
        served=evaluated.detector,
        sets={
            name: UnfamiliarCard(
                kind=one.kind,
                images=one.images,
                flagged=one.flagged,
                auroc=found.auroc_in_force(found.student, name),
            )
            for name, one in found.unfamiliar.items()
        },
    )
