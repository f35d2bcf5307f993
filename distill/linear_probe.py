"""A linear classifier on features: what a teacher without one would answer."""

import numpy as np
from jaxtyping import Float, Float32, Int
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bundle import UsageError

# The logit of a class without images: its probability underflows to 0.
_ABSENT = -1e4


def linear_probe(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int
) -> tuple[Float32[np.ndarray, "{classes} d"], Float32[np.ndarray, " {classes}"]]:
    """Return weight and bias of a logistic regression, for unscaled features.

    It is fitted on standardised features with scikit-learn's penalty C = 1, by L-BFGS
    without randomness; the scaling is folded into the weights. A class without images
    gets probability 0.

    Raises:
        UsageError: all images are of one class.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise UsageError(
            f"A classifier needs images of at least 2 classes, got {len(present)}. Add "
            f"images of other classes, or choose an objective that needs none."
        )
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(features), labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # one row, that of the second class against the first
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercept = np.concatenate([-intercept / 2, intercept / 2])
    weight = np.zeros((classes, features.shape[1]), np.float32)
    bias = np.full(classes, _ABSENT, np.float32)
    weight[present] = coefficients / scaler.scale_
    bias[present] = intercept - (coefficients / scaler.scale_) @ scaler.mean_
    return weight, bias
