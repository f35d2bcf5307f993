"""The files of an evaluation, `evaluation.json` and `report.html`, and their contents.

Beside its figures a report shows scores, cosines, neighbours and a map of the embeddings.
"""

from collections.abc import Callable, Sequence

import numpy as np

from distill.embedding import RoleEmbeddings
from distill.evaluation.ood import detector_key
from distill.images.data import Data
from distill.report import (
    EmbeddingMap,
    Illustrations,
    Picture,
    PlottedScores,
    embedding_map,
    report_html,
    report_thumbnail,
    sample_cosines,
    sample_queries,
)
from isogon.bundle import Manifest, StageWriter
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.images import Images, Preprocessing
from isogon.images.collection import Indices
from isogon.ood import Calibration, Detector, DetectorSpec
from isogon.parity import REPORT, ParityReport


def illustrations_of(
    data: Data,
    teacher: RoleEmbeddings | None,
    student: RoleEmbeddings,
    *,
    detector: DetectorSpec,
    fitted: Detector,
    manifest: Manifest,
    recipe: str,
) -> Illustrations:
    """Return what the report shows beside the figures.

    Args:
        data: the images and their classes.
        teacher: its embeddings, if available.
        student: its embeddings.
        detector: the recipe's; its threshold comes from the calibration images.
        fitted: the same detector, fitted on the student's bank.
        manifest: of the bundle.
        recipe: the recipe as TOML.
    """
    theirs = (None, None) if teacher is None else (teacher.test, teacher.bank)
    cosines = None
    if teacher is not None:
        cosines = sample_cosines(teacher.test, teacher.bank, student.test, student.bank)
    crop = manifest.preprocessing
    return Illustrations(
        manifest=manifest,
        recipe=recipe,
        cosines=cosines,
        scores=_scores(student, detector, fitted),
        queries=sample_queries(
            student.test,
            student.bank,
            *theirs,
            test_picture=_pictures(data.held_out, data.split.test, crop),
            bank_picture=_pictures(data.familiar, data.bank, crop),
        ),
        map=_map(data, teacher, student),
    )


def write_evaluation(
    writer: StageWriter,
    evaluation: Evaluation,
    drawn: Illustrations,
    parity: Sequence[ParityReport] = (),
) -> None:
    """Write `evaluation.json` and `report.html`, the files of the stage `evaluate`.

    Args:
        writer: of the stage `evaluate`, or of a stage that includes it.
        evaluation: the figures.
        drawn: what the report shows beside them.
        parity: of the artifacts exported so far; the report shows it too.
    """
    stage = writer.also("evaluate")
    stage.write(EVALUATION, evaluation)
    stage.write(REPORT, report_html(evaluation, drawn, parity))


def _scores(
    student: RoleEmbeddings, spec: DetectorSpec, detector: Detector
) -> PlottedScores | None:
    if student.calibration is None:
        return None
    scores = detector.score(student.calibration)
    return PlottedScores(
        detector=detector_key(spec),
        alpha=spec.alpha,
        calibrated_on=len(scores),
        threshold=Calibration.from_scores(scores, spec.alpha).threshold,
        familiar=detector.score(student.test),
        unfamiliar={
            name: detector.score(vectors) for name, vectors in student.unfamiliar.items()
        },
    )


def _pictures(
    images: Images, indices: Indices, preprocessing: Preprocessing
) -> Callable[[int], Picture]:
    labels = images.labels(indices)

    def picture(place: int) -> Picture:
        index = int(indices[place])
        return Picture(
            index=index,
            pixels=report_thumbnail(preprocessing.pixels(images.image(index))),
            label=None if labels is None else images.classes[labels[place]],
        )

    return picture


def _map(
    data: Data, teacher: RoleEmbeddings | None, student: RoleEmbeddings
) -> EmbeddingMap:
    labels = data.held_out.labels(data.split.test)
    shared = [  # both maps show the same images
        name for name in student.unfamiliar if teacher is None or name in teacher.unfamiliar
    ]
    ours = _unfamiliar(student, shared)
    theirs = None if teacher is None else _unfamiliar(teacher, shared)
    return embedding_map(
        student.test,
        None if teacher is None else teacher.test,
        labels,
        ours,
        theirs,
        classes=data.held_out.classes,
    )


def _unfamiliar(embedded: RoleEmbeddings, names: list[str]) -> np.ndarray | None:
    sets = [embedded.unfamiliar[name] for name in names]
    return np.concatenate(sets) if sets else None
