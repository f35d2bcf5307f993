"""Which of the formats on offer a client takes: the `Accept` header (RFC 9110, 12.5.1)."""

from collections.abc import Sequence
from http import HTTPStatus

from serving.api.problems import ProblemError


def negotiated(accept: str | None, offers: Sequence[str]) -> str:
    """Return the media type that the client likes best; the first offer, if all alike.

    Raises:
        ProblemError: 406, it takes none of them.
    """
    if not accept or not accept.strip():
        return offers[0]
    ranges = [_range(part) for part in accept.split(",")]
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) > 0:
        return best
    raise ProblemError(
        HTTPStatus.NOT_ACCEPTABLE,
        f"The Accept header is {accept[:80]!r}. This answer comes as "
        f"{' or '.join(offers)}; name one of them.",
    )


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range that holds the offer; 0 for none."""
    weights = dict(reversed(ranges))  # of equal ranges, the first
    family = offer.partition("/")[0] + "/*"
    return next((weights[kind] for kind in (offer, family, "*/*") if kind in weights), 0.0)


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0
