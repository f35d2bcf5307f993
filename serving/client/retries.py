"""When a request is tried again, and after how long."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

# Nothing was lost in these, or nothing that cannot be asked again. A timeout is not
# among them: a service that is slow is not helped by more requests.
_BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.RemoteProtocolError,
    httpx.WriteError,
)
_LATER = frozenset({429, 503})


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often to try, and how long to wait in between.

    The pause doubles from one attempt to the next, and its second half is random, so
    that clients that were refused together do not come back together. What the
    service asks for in Retry-After is added.
    """

    attempts: int = 5  # in all
    pause: float = 0.25  # seconds, at most, after the first attempt
    longest_pause: float = 8.0
    longest_wait: float = 60.0  # a Retry-After beyond is not waited for

    def wait(
        self, reply: httpx.Response | httpx.RequestError, attempt: int
    ) -> float | None:
        """Return after how many seconds to try again; None: the reply is final.

        Args:
            reply: what came of the attempt.
            attempt: its number, from 1.
        """
        asked = 0.0
        if isinstance(reply, httpx.Response):
            if reply.status_code not in _LATER:
                return None
            asked = _retry_after(reply)
        elif not isinstance(reply, _BROKEN):
            return None
        if attempt >= self.attempts or asked > self.longest_wait:
            return None
        pause = min(self.longest_pause, self.pause * 2.0 ** (attempt - 1))
        return asked + pause * random.uniform(0.5, 1.0)


DEFAULT_RETRIES = Retries()


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds asked for, given as a number or a date; 0 if not."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
