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
    from isogon.api.inspecting import Inspection


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from. Every hash is checked."""
    from isogon import api

    found = api.inspect(bundle)
    if as_json:
        document = {
            "manifest": found.manifest.model_dump(mode="json"),
            "detector": found.detector.model_dump(mode="json"),
            "evaluation": found.evaluation.model_dump(mode="json"),
            "worth": asdict(found.worth),
            "parity": [report.model_dump(mode="json") for report in found.parity],
        }
        console.as_json(document)
    else:
        show_inspection(found)


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
    from isogon import api
    from isogon.api.arguments import write_text

    text = api.inspect(bundle).card()
    if output is None:
        print(text, end="")
    else:
        write_text(output, text, replace=True)


def show_inspection(found: "Inspection") -> None:
    """Print whether distilling has paid, where the bundle comes from, and its content."""
    print_worth(found.evaluation)
    manifest = found.manifest
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
    add_detector(facts, found.detector)
    add_row(facts, "made", provenance.created)
    for package, version in provenance.versions.items():
        add_row(facts, package, version)
    out.print(facts)
    of_site = found.detector.fitted == "site"
    other = ", of the detector fitted in training" if of_site else ""
    print_figures(found.evaluation, title=f"Evaluation{other}")
    for report in found.parity:
        out.print(parity_table(report))
    files = titled("Files, all intact", "file", "stage", "bytes", "SHA-256")
    for name, entry in manifest.files.items():
        add_row(files, name, entry.stage, f"{entry.bytes:,}", f"{entry.sha256[:12]}…")
    out.print(files)
