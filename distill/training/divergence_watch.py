"""Detect a diverged loss before it is saved in a checkpoint."""

import math
from collections import deque
from collections.abc import Callable

import torch
from torch import nn

from isogon.errors import UsageError, option

_WINDOW = 100  # steps
_FACTOR = 10.0

Values = dict[str, float]


class DivergenceWatch:
    """Compares the recent loss with that of the first steps.

    A run has diverged if a term is not finite, or if the mean loss of the last 100 steps
    exceeds ten times the largest magnitude in the first 100. A loss that only does not
    fall never exceeds this.
    """

    def __init__(self, *, kept: Callable[[], bool] = lambda: False) -> None:
        """Watch from the start.

        Args:
            kept: returns whether there is a checkpoint to continue from.
        """
        self._kept = kept
        self._start = 0.0
        self._counted = 0
        self._recent: deque[float] = deque(maxlen=_WINDOW)

    def record(self, step: int, terms: Values) -> None:
        """Record the loss of one step.

        Raises:
            UsageError: the run has diverged; the message says what to change.
        """
        loss = sum(terms.values())
        if not math.isfinite(loss):
            raise _diverged("is not finite", step, terms, kept=self._kept())
        self._recent.append(loss)
        self._counted += 1
        if self._counted <= _WINDOW:
            self._start = max(self._start, abs(loss))
        elif sum(self._recent) / _WINDOW > _FACTOR * self._start:
            what = f"grew beyond {_FACTOR:g} times its start"
            raise _diverged(what, step, terms, kept=self._kept())

    def state(self) -> dict[str, float]:
        """Return the state for the checkpoint."""
        return {"start": self._start, "counted": self._counted}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from `state`; the window of recent steps starts empty."""
        self._start, self._counted = state["start"], int(state["counted"])


def require_finite(module: nn.Module, step: int, *, kept: bool) -> None:
    """Raise `UsageError` if a weight is not finite: no run could continue from it."""
    for name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise _diverged(f"left {name} not finite", step, {}, kept=kept)


def _diverged(what: str, step: int, terms: Values, *, kept: bool) -> UsageError:
    shown = "".join(f", {name} {value:.4g}" for name, value in terms.items())
    checkpoint = "The last good checkpoint is kept. " if kept else ""
    again = "run again"
    if kept:
        again += f" with {option('accept_changes', True)} to continue from it"
    return UsageError(
        f"The loss {what} at step {step}{shown}. {checkpoint}"
        f'Lower `learning_rate`, set `clip_norm` or use `precision = "32-true"` in '
        f"[train], and {again}."
    )
