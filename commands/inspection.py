"""`isogon inspect`: what a bundle holds."""

from typing import TYPE_CHECKING

import console
from commands.options import AsJson, BundlePath
from commands.stored import stored_evaluation

if TYPE_CHECKING:
    pass


def inspect(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Show what a bundle holds and where it came from; every hash is checked."""
    from bundle import Bundle, ParityReport

    opened = Bundle.open(bundle)
    names = [name for name in opened.manifest.files if name.startswith("parity/")]
    reports = [opened.record(name, ParityReport) for name in names]
    if as_json:
        document = {
            "manifest": opened.manifest.model_dump(mode="json"),
            "evaluation": stored_evaluation(opened).model_dump(mode="json"),
            "parity": [report.model_dump(mode="json") for report in reports],
        }
        console.as_json(document)
    else:
        console.inspection(opened, stored_evaluation(opened), reports)
