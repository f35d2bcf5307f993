"""What a bundle holds, as tables."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from isogon.cli.detector_table import add_detector
from isogon.cli.evaluation_tables import print_figures, print_worth
from isogon.cli.parity_table import parity_table
from isogon.cli.tables import STYLE, add_row, titled
from isogon.cli.terminal import out

if TYPE_CHECKING:
    from distill.evaluation import Evaluation
    from isogon.bundle import Bundle, DetectorInForce
    from isogon.parity import ParityReport


def inspection(
    bundle: "Bundle",
    detector: "DetectorInForce",
    found: "Evaluation",
    reports: list["ParityReport"],
) -> None:
    """Print whether distilling has paid, where a bundle comes from, and what it holds."""
    print_worth(found)
    manifest = bundle.manifest
    facts = Table(title=escape(manifest.name), show_header=False, **STYLE)
    add_row(facts, "student", f"{manifest.student.architecture}, {manifest.width} wide")
    for teacher in manifest.teacher.teachers or (manifest.teacher,):
        size = "" if teacher.size is None else f", at {teacher.size} pixels"
        add_row(facts, "teacher", f"{teacher.architecture} ({teacher.weights}){size}")
    add_row(facts, "teacher's licence", manifest.teacher.licence)
    crop = manifest.preprocessing
    add_row(facts, "pixels", f"{crop.height} x {crop.width}, crop {crop.crop:g}")
    provenance = manifest.provenance
    add_row(facts, "images", f"{provenance.images} ({provenance.image_count:,})")
    add_detector(facts, detector)
    add_row(facts, "made", provenance.created)
    for package, version in provenance.versions.items():
        add_row(facts, package, version)
    out.print(facts)
    other = ", of the detector fitted in training" if detector.fitted == "site" else ""
    print_figures(found, title=f"Evaluation{other}")
    for report in reports:
        out.print(parity_table(report))
    files = titled("Files, all intact", "file", "stage", "bytes", "SHA-256")
    for name, entry in manifest.files.items():
        add_row(files, name, entry.stage, f"{entry.bytes:,}", f"{entry.sha256[:12]}…")
    out.print(files)
