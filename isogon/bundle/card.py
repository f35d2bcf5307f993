"""A model card: what a bundle is, in Markdown, for a model hub or a wiki.

Every figure is the bundle's own; figures that were not measured are left out. The card
begins with the metadata that Hugging Face's hub reads.
"""

from collections.abc import Iterator

from isogon.bundle.artifact import parity_reports
from isogon.bundle.bundle import Bundle
from isogon.bundle.detector_in_force import DetectorInForce
from isogon.bundle.evaluation import (
    EVALUATION,
    Estimate,
    Evaluation,
    Fidelity,
    Quality,
)
from isogon.bundle.false_alarms import (
    detection_sentence,
    expected_rate,
    measured_false_alarms,
)
from isogon.bundle.manifest import Manifest
from isogon.bundle.worth import worth_of
from isogon.parity import ParityReport


def model_card(bundle: Bundle) -> str:
    """Return the card, in Markdown.

    Raises:
        BundleError: the evaluation or a parity report is damaged.
    """
    found = bundle.record(EVALUATION, Evaluation)
    reports = parity_reports(bundle)
    sections = (
        _head(bundle.manifest),
        _what(bundle.manifest),
        _worth(found),
        _parity(reports),
        _decisions(bundle, found, reports),
        _use(bundle.manifest, reports),
    )
    return "\n".join(line for section in sections for line in section)


def _head(manifest: Manifest) -> Iterator[str]:
    yield from (
        "---",
        "library_name: isogon",
        "pipeline_tag: image-feature-extraction",
        "license: other",
        f"license_name: {_quoted(manifest.student.licence)}",
        "tags: [isogon, onnx, image-embeddings, out-of-distribution]",
        "---",
        "",
    )


def _what(manifest: Manifest) -> Iterator[str]:
    student, teacher, crop = manifest.student, manifest.teacher, manifest.preprocessing
    yield from (
        f"# {manifest.name}",
        "",
        f"Unit-norm embeddings of images, {manifest.width} wide, and calibrated "
        "out-of-distribution scores. Distilled and exported with Isogon.",
        "",
        "| | |",
        "|---|---|",
        f"| student | {student.architecture}, {student.parameters:,} parameters |",
        f"| teacher | {teacher.architecture} ({teacher.weights}), "
        f"{teacher.parameters:,} parameters |",
        f"| licences | student: {student.licence}; teacher: {teacher.licence} |",
        f"| pixels | {crop.height} x {crop.width}, crop {crop.crop:g} |",
        f"| trained on | {manifest.provenance.image_count:,} images{_classes(manifest)} |",
        f"| made | {manifest.provenance.created} |",
        "",
    )


def _classes(manifest: Manifest) -> str:
    classes = manifest.provenance.classes
    return f" of {len(classes)} classes" if classes else ""


def _worth(found: Evaluation) -> Iterator[str]:
    yield from ("## How good it is", "", worth_of(found).sentence, "")
    columns: dict[str, Quality | None] = {
        "teacher": found.teacher,
        "undistilled": None if found.undistilled is None else found.undistilled.quality,
        "student": found.student,
    }
    shown = {name: quality for name, quality in columns.items() if quality is not None}
    yield from (f"| | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}")
    for title, values in _figures(found, shown):
        yield f"| {title} | {' | '.join(values)} |"
    yield ""
    images = f"{found.test_images:,} test images against {found.bank_images:,}"
    yield f"{images}; 95 % intervals."
    yield ""


def _figures(
    found: Evaluation, shown: dict[str, Quality]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each figure's title and its values, one for each model that is shown."""
    before = found.undistilled
    kept: dict[str, Fidelity | None] = {
        "student": found.fidelity,
        "undistilled": None if before is None else before.fidelity,
    }
    if found.fidelity is not None:
        of_each = [kept.get(name) for name in shown]
        yield (
            "angle distortion ↓",
            ["" if one is None else f"{one.angle_distortion:.3f}" for one in of_each],
        )
        yield (
            "neighbour overlap@10 ↑",
            ["" if one is None else f"{one.neighbour_overlap:.3f}" for one in of_each],
        )
    yield "kNN accuracy ↑", [_text(quality.knn_accuracy) for quality in shown.values()]
    for name in found.unfamiliar:
        yield (
            f"AUROC, {name} ↑",
            [_text(found.auroc_in_force(quality, name)) for quality in shown.values()],
        )


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _parity(reports: tuple[ParityReport, ...]) -> Iterator[str]:
    yield from ("## Files, each with its parity check", "")
    if not reports:
        yield from ("None is exported yet: run `isogon export`.", "")
        return
    yield from (
        "| file | SHA-256 | minimum cosine | neighbours kept | decisions kept |",
        "|---|---|---|---|---|",
    )
    for report in reports:
        figures = report.figures
        yield (
            f"| `{report.artifact}` | `{report.sha256[:12]}…` | {figures.min_cosine:.7f} | "
            f"{figures.neighbour_agreement:.4f} | {figures.decision_agreement:.4f} |"
        )
    yield from ("", "Against eager float32 PyTorch, on held-out images.", "")


def _decisions(
    bundle: Bundle, found: Evaluation, reports: tuple[ParityReport, ...]
) -> Iterator[str]:
    yield from ("## When not to trust it", "")
    flags = detection_sentence(found) or "No unfamiliar images were given to measure it."
    yield f"Detector: {DetectorInForce.of(bundle).spec.name}. {flags}"
    for report in reports[:1]:
        if report.calibration is None:
            continue
        alpha, images = report.calibration.alpha, len(report.calibration.scores)
        low, high = expected_rate(images, alpha)
        yield (
            f"An image is flagged when its p-value is at most {alpha:g}. With {images} "
            f"calibration images the share of familiar images flagged lies between "
            f"{low:.1%} and {high:.1%}, with a chance of 95 %."
        )
        measured = measured_false_alarms(bundle, alpha)
        if measured is not None:
            yield (
                f"Measured on {measured.images} other familiar images: "
                f"{measured.rate:.1%} [{measured.low:.1%}, {measured.high:.1%}]."
            )
    yield from (
        "",
        "These figures hold for images like the training images. For others, "
        "calibrate it on images of the new place: `isogon calibrate`.",
        "",
    )


def _use(manifest: Manifest, reports: tuple[ParityReport, ...]) -> Iterator[str]:
    if not reports:
        return
    place = f"{manifest.name}.isogon"
    yield from (
        "## Use",
        "",
        "```python",
        "import isogon",
        "",
        f'model = isogon.load("{place}")',
        'answers = model.embed(["photo.jpg"])',
        "print(answers.embeddings.shape, answers.p_values, answers.is_ood)",
        "```",
        "",
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
