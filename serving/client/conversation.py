"""What a client says, when it says it again, and what it makes of the answers.

Each method returns a generator that yields what to send, or how long to wait, and is
sent what came of it; its value is the result. Who runs it, and how, is in `clients.py`.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import httpx

from serving.client.answers import (
    Embeddings,
    FingerprintError,
    ModelCard,
    Scores,
    UnreachableError,
    embeddings_of,
    refusal,
    scores_of,
)
from serving.client.images import Image, Limits, batches

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


Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A request to be sent."""

    method: str
    path: str
    params: dict[str, str]
    images: list[bytes] = field(default_factory=list)

    @property
    def files(self) -> list[tuple[str, tuple[str, bytes, str]]] | None:
        """The images as parts of a form."""
        kind = "application/octet-stream"  # the service looks at the bytes
        return [("images", ("image", each, kind)) for each in self.images] or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A wait."""

    seconds: float


Reply = httpx.Response | httpx.RequestError | None
Talk = Generator[Ask | Pause, Reply, Result]


class Conversation:
    """The service's side of the API, as seen by a client."""

    def __init__(
        self, *, model: str | None, fingerprint: str | None, retries: Retries
    ) -> None:
        self._chosen = {} if model is None else {"model": model}
        self._fingerprint = fingerprint
        self._retries = retries
        self._card: ModelCard | None = None

    def model(self) -> Talk[ModelCard]:
        """Ask what is served."""
        ask = Ask(method="GET", path="/v1/model", params=self._chosen)
        self._card = ModelCard.of((yield from self._exchange(ask, _is_card)))
        self._require(self._card.fingerprint, self._fingerprint)
        return self._card

    def embed(self, images: Sequence[Image]) -> Talk[Embeddings]:
        """Ask for embeddings and scores."""
        results, answerer = yield from self._results(
            "/v1/embed", images, {"encoding": "base64"}
        )
        return embeddings_of(results, answerer.fingerprint, answerer.width)

    def score(self, images: Sequence[Image]) -> Talk[Scores]:
        """Ask for scores."""
        results, answerer = yield from self._results("/v1/score", images, {})
        return scores_of(results, answerer.fingerprint)

    def _results(
        self, path: str, images: Sequence[Image], params: dict[str, str]
    ) -> Talk[tuple[list[dict[str, Any]], ModelCard]]:
        """Ask in as many requests as it takes; one model answers them all."""
        card = self._card
        if card is None:
            card = yield from self.model()
        results: list[dict[str, Any]] = []
        limits = Limits(
            images=card.max_images,
            body_bytes=card.max_body_bytes,
            image_bytes=card.max_image_bytes,
            image_pixels=card.max_image_pixels,
        )
        for batch in batches(images, limits):
            ask = Ask(
                method="POST",
                path=path,
                params=self._chosen | params,
                images=batch.images,
            )
            answers = partial(_answers, images=len(batch.images))
            document = yield from self._exchange(ask, answers, start=batch.start)
            found = document["model"]["fingerprint"]
            if found != card.fingerprint:  # another bundle was taken up meanwhile
                if results:
                    raise FingerprintError(card.fingerprint, found)
                card = yield from self.model()
            self._require(found, card.fingerprint)
            results += document["results"]
        return results, card

    def _exchange(
        self, ask: Ask, fits: Callable[[dict[str, Any]], bool], start: int = 0
    ) -> Talk[dict[str, Any]]:
        """Return the document of an answer that fits what was asked."""
        response = yield from self._answer(ask)
        if response.status_code != httpx.codes.OK:
            raise refusal(response, start)
        document = _document(response)
        if not fits(document):
            raise UnreachableError(
                f"{ask.method} {ask.path} was answered, but not by an Isogon service: "
                f"{response.text[:80]!r}. Give the URL under which /v1/model is."
            )
        return document

    def _answer(self, ask: Ask) -> Talk[httpx.Response]:
        """Send until there is a final reply."""
        attempt = 0
        while True:
            attempt += 1
            reply = yield ask
            if reply is None:
                raise TypeError("A conversation is told what came of each request.")
            wait = self._retries.wait(reply, attempt)
            if wait is not None:
                yield Pause(seconds=wait)
            elif isinstance(reply, httpx.Response):
                return reply
            else:
                raise UnreachableError(
                    f"{ask.method} {ask.path}: {reply or type(reply).__name__}, at the "
                    f"attempt {attempt}. {_remedy(reply)}"
                ) from reply

    @staticmethod
    def _require(found: str, expected: str | None) -> None:
        if expected not in (None, found):
            raise FingerprintError(str(expected), found)


def _is_card(document: dict[str, Any]) -> bool:
    return {"name", "fingerprint", "width", "limits"} <= set(document)


def _answers(document: dict[str, Any], images: int) -> bool:
    model, results = document.get("model"), document.get("results")
    named = isinstance(model, dict) and "fingerprint" in model
    return named and isinstance(results, list) and len(results) == images


def _remedy(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return "The service was reached and is slow: give the client a longer `timeout`."
    return "Is the service there? `isogon serve BUNDLE` starts it."


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
