"""The synchronous and the asynchronous client.

Both run the generators of `conversation.py`, which decide what to send and when.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from serving.client.answers import Embeddings, ModelCard, Scores
from serving.client.conversation import (
    DEFAULT_RETRIES,
    Conversation,
    HttpRequest,
    Pause,
    Reply,
    Result,
    Retries,
    Steps,
)
from serving.client.images import Image

_TIMEOUT = 60.0


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(
            f"Expected the service's URL, such as http://127.0.0.1:3000, got {url!r}."
        )
    headers = {"accept": "application/json"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable()):
            raise ValueError(
                "Expected an API key of printable ASCII characters, got one with others. "
                "Was it copied with quotation marks?"
            )
        headers["authorization"] = f"Bearer {api_key}"
    return {"base_url": url, "headers": headers, "timeout": timeout}


class IsogonClient:
    """The synchronous client. One may be shared by threads.

    Args:
        url: of the service, such as `http://127.0.0.1:3000`, without `/v1`.
        model: name of the model that answers; None or "": the default.
        api_key: if the service needs one.
        fingerprint: of the model that made your index; if another one answers, a
            `FingerprintError` is raised.
        retries: how often a full queue or a broken connection is tried again.
        timeout: seconds for each step of one request; the service's own deadline is 30
            by default.
        transport: of httpx; None: over the network.

    Raises:
        ValueError: the URL is not one, or a header cannot hold the key.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        fingerprint: str | None = None,
        retries: Retries = DEFAULT_RETRIES,
        timeout: float = _TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._service = Conversation(model=model, fingerprint=fingerprint, retries=retries)
        self._http = httpx.Client(transport=transport, **_options(url, api_key, timeout))

    def embed(self, images: Sequence[Image]) -> Embeddings:
        """Return embeddings and scores, in the order of the images.

        Args:
            images: encoded bytes, files, or Pillow's images; any number, since they
                are sent in as many requests as the service's limits require. Bytes and
                files are sent unchanged, and so is an image that Pillow has just opened,
                including its EXIF rotation. An image made in memory is sent by its
                pixels, without EXIF rotation. A Pillow image beyond the service's limits
                is sent as JPEG, or smaller.

        Raises:
            RefusedError: the service refused; its `index` is the image it is about.
            UnreachableError: no service answered.
            FingerprintError: another model answered than expected.
            OSError: a file cannot be read.
            TypeError: `images` is not a sequence, or an item is not an image.
        """
        return self._run(self._service.embed(images))

    def score(self, images: Sequence[Image]) -> Scores:
        """Return scores only; otherwise like `embed`."""
        return self._run(self._service.score(images))

    def model(self) -> ModelCard:
        """Return what is served now, and its limits."""
        return self._run(self._service.model())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, steps: Steps[Result]) -> Result:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            reply = self._taken(step)

    def _taken(self, step: HttpRequest | Pause) -> Reply:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.request(
                step.method, step.path, params=step.params, files=step.files
            )
        except httpx.RequestError as error:
            return error


class AsyncIsogonClient:
    """The asynchronous client; its arguments are those of `IsogonClient`."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        fingerprint: str | None = None,
        retries: Retries = DEFAULT_RETRIES,
        timeout: float = _TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._service = Conversation(model=model, fingerprint=fingerprint, retries=retries)
        self._http = httpx.AsyncClient(
            transport=transport, **_options(url, api_key, timeout)
        )

    async def embed(self, images: Sequence[Image]) -> Embeddings:
        """Return embeddings and scores; see `IsogonClient.embed`."""
        return await self._run(self._service.embed(images))

    async def score(self, images: Sequence[Image]) -> Scores:
        """Return scores only; otherwise like `embed`."""
        return await self._run(self._service.score(images))

    async def model(self) -> ModelCard:
        """Return what is served now, and its limits."""
        return await self._run(self._service.model())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[Result]) -> Result:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as end:
                result: Result = end.value
                return result
            reply = await self._taken(step)

    async def _taken(self, step: HttpRequest | Pause) -> Reply:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.request(
                step.method, step.path, params=step.params, files=step.files
            )
        except httpx.RequestError as error:
            return error
