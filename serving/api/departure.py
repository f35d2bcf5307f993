"""A client that leaves takes its work along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect


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
