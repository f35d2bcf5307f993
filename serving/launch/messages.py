"""What the supervisor and its workers tell each other, pickled, over a pipe."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from prometheus_client.core import Metric

Scores = dict[tuple[str, str], Float[np.ndarray, " b"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """From a worker: its threads are there, and it waits for `Answer`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """From a worker, each second and when `/metrics` is asked for.

    Args:
        families: all of its metrics.
        scores: OOD scores since the report before, by model's name and fingerprint.
        ticket: of the request for `/metrics` that waits for `Exposed`.
    """

    families: tuple[Metric, ...]
    scores: Scores
    ticket: int | None = None
    accept: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """To a worker: take connections, until SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Complete:
    """To a worker: whether every process answers."""

    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposed:
    """To a worker: what `/metrics` says of all processes."""

    ticket: int
    content: bytes
    kind: str
