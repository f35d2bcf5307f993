"""What `/v1/model` says the student is worth: beside whom, and how well it detects."""

from pydantic import BaseModel, Field

from isogon.bundle import ServedDetector
from isogon.bundle.evaluation import Baseline, Estimate, Evaluation, Fidelity, Kind, Quality
from isogon.bundle.false_alarms import detection_sentence
from isogon.bundle.worth import Verdict, worth_of
from serving.served import Evaluated


class FiguresCard(BaseModel):
    """What one network's embeddings are good for; null and absent: not measured."""

    knn_accuracy: Estimate | None = Field(
        description="of the 10 nearest; null without classes"
    )
    neighbour_overlap: float | None = Field(
        description="share of the teacher's 10 nearest that are kept; null of the teacher "
        "itself"
    )
    angle_distortion: float | None = Field(
        description="mean difference of a cosine from the teacher's; null likewise"
    )
    auroc: dict[str, Estimate] = Field(
        description="by unfamiliar set, of the detector in `detection`"
    )


class UnfamiliarCard(BaseModel):
    """One set of images that should be flagged."""

    kind: Kind = Field(description="near is alike and hard, far is of another world")
    images: int
    flagged: int | None = Field(description="of them, at `alpha`; null: not counted")
    auroc: Estimate | None = Field(
        description="chance that one of them scores higher than a familiar image"
    )


class DetectionCard(BaseModel):
    """How well the detector fitted in training tells unfamiliar images."""

    sentence: str | None = Field(
        description="the share flagged, in words; null where it was not counted",
        examples=["Flags 70 % of 105 unfamiliar images."],
    )
    detector: str = Field(description="which was measured, and its settings")
    alpha: float = Field(description="the false-alarm rate at which it flagged")
    served: ServedDetector = Field(
        description="same: this detector answers; site: `isogon calibrate` has fitted "
        "another since, which these figures are not of; reduced: it answers from the "
        "smaller bank of `isogon export --bank`"
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
        description="student minus undistilled on the same images, by figure; angle "
        "distortion is better when lower"
    )


class EvaluationCard(BaseModel):
    """What the student is worth, measured in PyTorch when it was distilled or evaluated.

    `parity` says how far the artifact is from that student.
    """

    test_images: int = Field(description="which neither training nor calibration saw")
    bank_images: int = Field(description="against which they are compared")
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
    """Return what `/v1/model` says of a bundle's evaluation."""
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
