"""Signals that ask a run to stop: it stops after the current step, not within it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether a signal asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def end(self) -> None:
        """End as after the signal: by `KeyboardInterrupt` or `SystemExit`."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + (self.signal or 0))


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Record the first signal to stop; a second one acts at once.

    Nothing is recorded outside the main thread, where Python delivers no signals.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number in _SIGNALS:
            signal.signal(number, before[number])
