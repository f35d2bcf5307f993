"""`isogon inspect`: what a bundle holds."""

import console
from commands.options import AsJson, BundlePath
from commands.stored import stored_evaluation


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from; every hash is checked."""
    from bundle import Bundle, DetectorInForce, parity_reports

    opened = Bundle.open(bundle)
    detector = DetectorInForce.of(opened)
    reports = list(parity_reports(opened))
    if as_json:
        document = {
            "manifest": opened.manifest.model_dump(mode="json"),
            "detector": detector.model_dump(mode="json"),
            "evaluation": stored_evaluation(opened).model_dump(mode="json"),
            "parity": [report.model_dump(mode="json") for report in reports],
        }
        console.as_json(document)
    else:
        console.inspection(opened, detector, stored_evaluation(opened), reports)
