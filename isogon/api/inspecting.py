"""`inspect`: what a bundle holds."""

from dataclasses import dataclass

from isogon.api.arguments import Place, opened_bundle
from isogon.bundle import Bundle, DetectorInForce, Manifest, Worth, parity_reports
from isogon.bundle.card import model_card
from isogon.bundle.evaluation import EVALUATION, Evaluation
from isogon.bundle.worth import worth_of
from isogon.parity import ParityReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a bundle holds and where it comes from; every file has its hash."""

    bundle: Bundle
    manifest: Manifest
    detector: DetectorInForce
    evaluation: Evaluation
    worth: Worth  # whether distilling has paid
    parity: tuple[ParityReport, ...]  # one for each artifact that has passed

    def card(self) -> str:
        """Return a model card in Markdown, with metadata for Hugging Face's hub."""
        return model_card(self.bundle)

    def __repr__(self) -> str:
        """Return the bundle and whether distilling has paid, for a notebook."""
        return f"Inspection({self.bundle!r}: {self.worth.sentence})"


def inspect(bundle: Place | Bundle) -> Inspection:
    """Return what a bundle holds: its manifest, detector, evaluation and parity.

    Args:
        bundle: a bundle; every hash is checked.

    Raises:
        BundleError: the bundle is damaged.

    Example:
        >>> found = isogon.inspect("photos.isogon")
        >>> found.manifest.width, found.evaluation.test_images, found.parity[0].artifact
    """
    opened = opened_bundle(bundle)
    evaluation = opened.record(EVALUATION, Evaluation)
    return Inspection(
        bundle=opened,
        manifest=opened.manifest,
        detector=DetectorInForce.of(opened),
        evaluation=evaluation,
        worth=worth_of(evaluation),
        parity=tuple(parity_reports(opened)),
    )
