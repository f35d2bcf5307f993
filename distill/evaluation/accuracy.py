"""Accuracy by nearest neighbours; the linear probe is `bundle.LinearProbe`."""

import numpy as np
from jaxtyping import Bool, Float32, Int
from rich.progress import Progress

from distill.images.data import Data
from isogon.images.collection import Indices
from isogon.ood.blocks import in_blocks
from isogon.ood.neighbours import NEIGHBOURS, nearest

TEMPERATURE = 0.07


def any_known(bank_labels: Indices, test_labels: Indices) -> bool:
    """Return whether any test image's class is in the bank: else none can be right."""
    return bool(np.isin(test_labels, bank_labels).any())


def why_no_accuracy(data: Data) -> str | None:
    """Return why accuracy would be 0 whatever the model, or None.

    For images without classes no accuracy is expected, and nothing is said.
    """
    bank = data.familiar.labels(data.bank)
    test = data.held_out.labels(data.split.test)
    if bank is None or test is None or any_known(bank, test):
        return None
    return (
        f"the {len(test):,} test images are of other classes than the {len(bank):,} they "
        f"are compared with; add images of the same classes"
    )


def say_if_left_out(data: Data, progress: Progress) -> None:
    """Print why there will be no accuracy, if there is a reason."""
    reason = why_no_accuracy(data)
    if reason is not None:
        progress.console.print(
            f"Accuracy is left out: {reason}.", markup=False, soft_wrap=True
        )


def knn_right(
    bank: Float32[np.ndarray, "bank d"],
    bank_labels: Indices,
    test: Float32[np.ndarray, "test d"],
    test_labels: Indices,
) -> Bool[np.ndarray, " test"]:
    """Return where the 10 nearest, each voting with exp(cos / 0.07), are right.

    The protocol of Wu et al., arXiv:1805.01978, with the k of CosPress's evaluation
    (arXiv:2411.15239).
    """
    voters_wanted = min(NEIGHBOURS, len(bank))
    classes = int(max(bank_labels.max(), test_labels.max())) + 1

    def elected(some: Float32[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        cosines = some @ bank.T
        voters = nearest(cosines, voters_wanted)
        weights = np.exp(np.take_along_axis(cosines, voters, axis=1) / TEMPERATURE)
        votes = np.zeros((len(cosines), classes))
        np.add.at(votes, (np.arange(len(cosines))[:, None], bank_labels[voters]), weights)
        winners: np.ndarray = votes.argmax(axis=1)
        return winners

    right: np.ndarray = in_blocks(elected, test) == test_labels
    return right
