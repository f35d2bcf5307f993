"""What a bundle says of itself."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bundle import Bundle
    from distill.evaluation import Evaluation


def stored_evaluation(bundle: "Bundle") -> "Evaluation":
    """Return the evaluation that a bundle holds."""
    from distill.evaluation import Evaluation

    return bundle.record("evaluation.json", Evaluation)
