"""Accuracy of the embeddings: nearest neighbours and a linear probe."""

import numpy as np
from jaxtyping import Bool, Float32
from sklearn.linear_model import LogisticRegression

from bundle.folder import Indices
from bundle.neighbours import NEIGHBOURS, nearest
from distill.evaluation.fidelity import BLOCK

TEMPERATURE = 0.07

# Inverse regularisation: unit-norm features are small, so weights must be large.
_PROBE_STRENGTH = 10.0


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
    right = np.empty(len(test), bool)
    for start in range(0, len(test), BLOCK):
        cosines = test[start : start + BLOCK] @ bank.T
        voters = nearest(cosines, voters_wanted)
        weights = np.exp(np.take_along_axis(cosines, voters, axis=1) / TEMPERATURE)
        votes = np.zeros((len(cosines), classes))
        np.add.at(votes, (np.arange(len(cosines))[:, None], bank_labels[voters]), weights)
        right[start : start + BLOCK] = (
            votes.argmax(axis=1) == test_labels[start : start + BLOCK]
        )
    return right


def linear_right(
    bank: Float32[np.ndarray, "bank d"],
    bank_labels: Indices,
    test: Float32[np.ndarray, "test d"],
    test_labels: Indices,
) -> Bool[np.ndarray, " test"]:
    """Return where a logistic regression fitted on the bank is right."""
    probe = LogisticRegression(C=_PROBE_STRENGTH, max_iter=1000)
    found: np.ndarray = probe.fit(bank, bank_labels).predict(test) == test_labels
    return found
