"""The logic of both clients: what to send, when to try again, how to read the answers.

Each method of `Conversation` returns a generator. It yields requests to send, or pauses,
receives the replies, and returns the result. `clients.py` runs it.
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
from serving.client.images import Image, ServiceLimits, split_into_requests

# After these errors the request is sent again. Not after a timeout: more requests do not
# help a slow service.
_BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.RemoteProtocolError,
    httpx.WriteError,
)
_LATER = frozenset({429, 503})

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often to try, and how long to wait in between.

    The pause doubles with each attempt, and its second half is random, so that clients
    that were refused together do not return together. The service's Retry-After is
    added.
    """

    attempts: int = 5  # in all
    pause: float = 0.25  # seconds, at most, after the first attempt
    longest_pause: float = 8.0
    longest_wait: float = 60.0  # seconds; for a longer Retry-After the client gives up

    def wait(
        self, reply: httpx.Response | httpx.RequestError, attempt: int
    ) -> float | None:
        """Return after how many seconds to try again; None: the reply is final.

        Args:
            reply: to the attempt.
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
    """Return the seconds of Retry-After, given as a number or a date; 0 without one."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest:
    """A request to send."""

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
    """A pause before the next request."""

    seconds: float


Reply = httpx.Response | httpx.RequestError | None
Steps = Generator[HttpRequest | Pause, Reply, Result]


class Conversation:
    """A client's exchange with the service."""

    def __init__(
        self, *, model: str | None, fingerprint: str | None, retries: Retries
    ) -> None:
        self._chosen = {} if model is None else {"model": model}
        self._fingerprint = fingerprint
        self._retries = retries
        self._card: ModelCard | None = None

    def model(self) -> Steps[ModelCard]:
        """Ask what is served."""
        request = HttpRequest(method="GET", path="/v1/model", params=self._chosen)
        self._card = ModelCard.of((yield from self._exchange(request, _is_card)))
        self._require(self._card.fingerprint, self._fingerprint)
        return self._card

    def embed(self, images: Sequence[Image]) -> Steps[Embeddings]:
        """Ask for embeddings and scores."""
        results, answerer = yield from self._results(
            "/v1/embed", images, {"encoding": "base64"}
        )
        return embeddings_of(results, answerer.fingerprint, answerer.width)

    def score(self, images: Sequence[Image]) -> Steps[Scores]:
        """Ask for scores."""
        results, answerer = yield from self._results("/v1/score", images, {})
        return scores_of(results, answerer.fingerprint)

    def _results(
        self, path: str, images: Sequence[Image], params: dict[str, str]
    ) -> Steps[tuple[list[dict[str, Any]], ModelCard]]:
        """Ask in as many requests as needed; the same model must answer all of them."""
        card = self._card
        if card is None:
            card = yield from self.model()
        results: list[dict[str, Any]] = []
        limits = ServiceLimits(
            images=card.max_images,
            body_bytes=card.max_body_bytes,
            image_bytes=card.max_image_bytes,
            image_pixels=card.max_image_pixels,
        )
        for batch in split_into_requests(images, limits):
            request = HttpRequest(
                method="POST",
                path=path,
                params=self._chosen | params,
                images=batch.images,
            )
            answers = partial(_answers, images=len(batch.images))
            document = yield from self._exchange(request, answers, start=batch.start)
            found = document["model"]["fingerprint"]
            if found != card.fingerprint:  # another bundle was loaded meanwhile
                if results:
                    raise FingerprintError(card.fingerprint, found)
                card = yield from self.model()
            self._require(found, card.fingerprint)
            results += document["results"]
        return results, card

    def _exchange(
        self, request: HttpRequest, fits: Callable[[dict[str, Any]], bool], start: int = 0
    ) -> Steps[dict[str, Any]]:
        """Return the JSON document of an answer that fits the request."""
        response = yield from self._answer(request)
        if response.status_code != httpx.codes.OK:
            raise refusal(response, start)
        document = _document(response)
        if not fits(document):
            raise UnreachableError(
                f"{request.method} {request.path} was answered, but not by an Isogon "
                f"service: {response.text[:80]!r}. Give the URL above /v1/model."
            )
        return document

    def _answer(self, request: HttpRequest) -> Steps[httpx.Response]:
        """Send, and try again, until there is a final reply."""
        attempt = 0
        while True:
            attempt += 1
            reply = yield request
            if reply is None:
                raise TypeError("Expected the reply to the request, got None.")
            wait = self._retries.wait(reply, attempt)
            if wait is not None:
                yield Pause(seconds=wait)
            elif isinstance(reply, httpx.Response):
                return reply
            else:
                raise UnreachableError(
                    f"{request.method} {request.path}: {reply or type(reply).__name__}, at "
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
        return "The service was reached but is slow: give the client a longer `timeout`."
    return "Is the service running? `isogon serve BUNDLE` starts it."


def _document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
