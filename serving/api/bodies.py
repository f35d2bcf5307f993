"""A request's body, read under its limit; a client that leaves takes its work along."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.api.problems import ProblemError, bad_type
from serving.settings import Settings


@asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client goes; the request's body must have been read.

    Servers tell of it only to who asks for another message.

    Raises:
        ClientDisconnect: it went, and nobody is left to answer.
    """
    block = asyncio.current_task()
    assert block is not None  # a coroutine runs in a task
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        block.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and not block.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


_PIECE = 2**20  # bytes


def content_type(request: Request) -> str:
    """Return the declared type in lower case, without parameters; may be empty."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def body_of(request: Request, settings: Settings, most: int | None = None) -> bytes:
    """Return the whole body, of `most` bytes if that is less than any body may have.

    Raises:
        ProblemError: as `chunks_of`.
    """
    return b"".join([chunk async for chunk in chunks_of(request, settings, most)])


async def pieces_of(request: Request, settings: Settings) -> AsyncGenerator[bytes, None]:
    """Pass the body on in pieces of a mebibyte or more, the last one apart.

    It comes in chunks of 64 KiB, and each costs the parser of forms more than its bytes
    do: 32 photographs were 3.4 ms of the event loop in chunks and are 0.9 in pieces.

    Raises:
        ProblemError: as `chunks_of`.
    """
    piece = bytearray()
    async for chunk in chunks_of(request, settings):
        piece += chunk
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


async def chunks_of(
    request: Request, settings: Settings, most: int | None = None
) -> AsyncGenerator[bytes, None]:
    """Pass the body on; stop at the limit, without reading what was only announced.

    Raises:
        ProblemError: 413, it is past the limit; 415, it is compressed as a whole, which
            gains images little and could expand to any size.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise bad_type(
            f"The body's Content-Encoding is {coding[:80]!r}, and bodies are taken as they "
            f"are: images are compressed already. Send it without a Content-Encoding."
        )
    limit = min(settings.max_body_bytes, most or settings.max_body_bytes)
    announced = request.headers.get("content-length", "0")
    received = int(announced) if announced.isdecimal() else 0
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            yield chunk
        else:
            return
    raise ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has {received:,} bytes or more, the limit is "
        f"{limit:,}. Send fewer or smaller images.",
    )
