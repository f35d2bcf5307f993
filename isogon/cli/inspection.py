"""`isogon inspect`: what a bundle holds."""

from dataclasses import asdict

from isogon.cli import console
from isogon.cli.options import AsJson, BundlePath


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from; every hash is checked."""
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
        console.inspection(opened, detector, found, reports)
