"""What a bundle says of itself."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isogon.bundle import Bundle
    from isogon.bundle.evaluation import Evaluation


def stored_evaluation(bundle: "Bundle") -> "Evaluation":
    """Return the evaluation that a bundle holds."""
    from isogon.bundle.evaluation import EVALUATION, Evaluation

    return bundle.record(EVALUATION, Evaluation)
