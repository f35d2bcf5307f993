"""A new bundle is taken up while the old one answers: at SIGHUP, or by watching."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Never

from serving.models import Models

_log = logging.getLogger("isogon.serving")
_EVERY = 1.0  # seconds


@asynccontextmanager
async def kept_current(models: Models) -> AsyncIterator[None]:
    """Take up new bundles at SIGHUP and, where the settings say so, unasked.

    Watching waits until a changed bundle has been the same for a second: it may still
    be being copied. SIGHUP waits for nothing, and tries refused bundles again.
    """
    hangup = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    task = asyncio.create_task(_keep_current(models, hangup))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_current(models: Models, hangup: asyncio.Event) -> Never:
    before = None
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_EVERY if models.settings.watch else None):
                await hangup.wait()
        try:
            if hangup.is_set():
                hangup.clear()
                await models.reload(again=True)
                continue
            now = await asyncio.to_thread(models.stamps)
            if now == before:
                await models.reload()
            before = now
        except Exception:  # such as of a disk that does not answer; the next look may
            _log.exception("Could not look for new bundles")
