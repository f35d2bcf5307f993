"""The bounds an artifact must keep, by precision, and the check of a figure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from isogon.runtimes.runner import Precision

Sign = Literal["<=", ">="]

# The direction of each figure's bound, in the order of display.
SIGNS: Mapping[str, Sign] = MappingProxyType(
    {
        "max_abs_error": "<=",
        "max_norm_error": "<=",
        "min_cosine": ">=",
        "mean_cosine": ">=",
        "neighbour_agreement": ">=",
        "max_score_error": "<=",
        "score_rank_correlation": ">=",
        "decision_agreement": ">=",
        "batch_invariance": "<=",
        "determinism": "<=",
    }
)


class ParityRecord(BaseModel):
    """A record of parity in a file: complete, immutable, and NaN stays NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Check(NamedTuple):
    """One figure and its bound; false if the bound is broken. NaN breaks it."""

    name: str
    seen: float
    sign: Sign
    bound: float

    def __bool__(self) -> bool:
        return self.seen <= self.bound if self.sign == "<=" else self.seen >= self.bound

    def __str__(self) -> str:
        verb = "exceeds" if self.sign == "<=" else "is below"
        return f"{self.name} {self.shown} {verb} {self.bound:.8g}"

    @property
    def shown(self) -> str:
        """The figure as text, with enough digits to distinguish it from a broken bound."""
        bound = f"{self.bound:.8g}"
        texts = (f"{self.seen:.{digits}g}" for digits in range(8, 18))
        return next((text for text in texts if self or text != bound), f"{self.seen!r}")


class Tolerance(ParityRecord):
    """The bounds an artifact must keep; the defaults are those of float32.

    `Figures` and `Stability` explain the figures. Float32 was measured on CPU with
    torch 2.15 and ONNX Runtime 1.31, knn detector, batch sizes 1, 2, 7, 8 and 32:

        student                     test_resnet, trained   ViT-Ti   EfficientNet-Lite0
        max_abs_error                            2.4e-7   2.4e-7               6.3e-7
        max_norm_error                           1.6e-7   3.2e-7               2.7e-7
        1 - min_cosine                          1.4e-13  5.3e-13              3.9e-12
        max_score_error                          2.3e-6   3.2e-6               2.3e-6
        agreements and correlation                    1        1                    1
        batch_invariance, determinism                 0        0                    0

    (ViT-Ti: random weights, three times their usual size, so that attention is not
    uniform; Lite0: pretrained.) A decision may differ for an image whose score is within
    max_score_error of the threshold. A GPU sums in another order at another batch size,
    so the bounds of the last two are above 0.
    """

    max_abs_error: float = 1e-4
    max_norm_error: float = 1e-4
    min_cosine: float = 0.99999
    mean_cosine: float = 0.99999
    neighbour_agreement: float = 0.99
    max_score_error: float = 1e-3
    score_rank_correlation: float = 0.999
    decision_agreement: float = 0.99
    batch_invariance: float = 1e-5
    determinism: float = 1e-5

    def check(self, name: str, seen: float) -> Check:
        """Return the figure `name` against its bound."""
        return Check(name, seen, SIGNS[name], getattr(self, name))


# Fewer bits have looser bounds. The cosines, and the neighbour agreement of int8, are what
# we promise; the other bounds follow from them: the distance of unit vectors with cosine c
# is sqrt(2 - 2c), 0.014 at 0.9999 and 0.14 at 0.99, and no coordinate differs by more.
TOLERANCES: Mapping[Precision, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(),
        "fp16": Tolerance(
            max_abs_error=1e-2,
            min_cosine=0.9999,
            mean_cosine=0.9999,
            neighbour_agreement=0.95,
            max_score_error=2e-2,
            score_rank_correlation=0.995,
            decision_agreement=0.98,
            batch_invariance=5e-3,
            determinism=5e-3,
        ),
        "int8": Tolerance(
            max_abs_error=1e-1,
            min_cosine=0.99,
            mean_cosine=0.99,
            neighbour_agreement=0.9,
            max_score_error=2e-1,
            score_rank_correlation=0.95,
            decision_agreement=0.95,
            batch_invariance=5e-2,
            determinism=5e-2,
        ),
    }
)
