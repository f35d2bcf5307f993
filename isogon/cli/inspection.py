"""`isogon inspect` and `isogon card`: what a bundle holds, as tables or as Markdown."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from isogon.cli import console
from isogon.cli.console import out
from isogon.cli.evaluation import print_figures, print_worth
from isogon.cli.options import AsJson, BundlePath
from isogon.cli.tables import STYLE, add_detector, add_row, parity_table, titled

if TYPE_CHECKING:
    from isogon.bundle import Bundle, DetectorInForce
    from isogon.bundle.evaluation import Evaluation
    from isogon.parity import ParityReport


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from. Every hash is checked."""
    from isogon.api import evaluation
    from isogon.bundle import Bundle, DetectorInForce, parity_reports
    from isogon.bundle.worth import worth_of

    opened = Bundle.open(bundle)
    detector = DetectorInForce.of(opened)
    found = evaluation(opened)
    reports = list(parity_reports(opened))
    if as_json:
        document = {
            "manifest": opened.manifest.model_dump(mode="json"),
            "detector": detector.model_dump(mode="json"),
            "evaluation": found.model_dump(mode="json"),
            "worth": asdict(worth_of(found)),
            "parity": [report.model_dump(mode="json") for report in reports],
        }
        console.as_json(document)
    else:
        show_inspection(opened, detector, found, reports)


def card(
    bundle: BundlePath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, replaced if it exists. Without it: stdout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a model card in Markdown: what the model is, how good, when not to trust it.

    All figures are the bundle's own. The card begins with metadata for Hugging Face's
    hub, where a card is called README.md.
    """
    from isogon.bundle import Bundle
    from isogon.bundle.card import model_card

    text = model_card(Bundle.open(bundle))
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")


def show_inspection(
    bundle: "Bundle",
    detector: "DetectorInForce",
    found: "Evaluation",
    reports: list["ParityReport"],
) -> None:
    """Print whether distilling has paid, where the bundle comes from, and its content."""
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
