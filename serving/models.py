"""The models that answer, by name, and how one is replaced while the service runs."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Never, Self

from serving.batching import Observer, Pipeline, Room
from serving.bundles import Bundles, Loaded
from serving.locations import Stamp
from serving.served_model import ServedModel
from serving.settings import Settings

Observing = Callable[[ServedModel], Observer]
Forgetting = Callable[[str], None]
_BRIEF = 80  # characters of a name that is not known
_EVERY = 1.0  # seconds between two checks of the bundles
_log = logging.getLogger("isogon.serving")


class UnknownModelError(Exception):
    """A request names a model that is not served."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        served = ", ".join(map(repr, names))
        asked = repr(name if len(name) <= _BRIEF else name[:_BRIEF] + "…")
        super().__init__(f"There is no model {asked} here. Ask for one of {served}.")


class Models:
    """The served models by name; the first is the default.

    A request holds the pipeline it uses. A replaced pipeline is closed when no request
    holds it any more.
    """

    def __init__(
        self,
        bundles: Bundles,
        observing: Observing = lambda _: Observer(),
        forgetting: Forgetting = lambda _: None,
    ) -> None:
        """Start every model's threads: ready to answer.

        Args:
            bundles: loaded.
            observing: returns the observer of a model's pipeline.
            forgetting: is called with the name of a model that is no longer served.
        """
        self._bundles = bundles
        # Memory for the large images of all models: what the loaded models have left.
        self.room = Room.of(bundles.settings)
        self._observing = observing
        self._forgetting = forgetting
        self._held_models = [_Held(self._pipeline(loaded)) for loaded in bundles.loaded]
        self._reloading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load what `settings` name, ready to answer.

        Raises:
            IsogonError: a bundle is faulty, its golden check fails, or two have the same
                name.
        """
        return cls(Bundles.load(settings))

    @property
    def settings(self) -> Settings:
        """What the operator set."""
        return self._bundles.settings

    @property
    def names(self) -> tuple[str, ...]:
        """The names that requests may use, the default first."""
        return tuple(held.name for held in self._held_models)

    @property
    def default(self) -> str:
        """The model that answers requests that name none."""
        return self.names[0]

    def stamps(self) -> tuple[Stamp, ...]:
        """Return the current stamps of the bundles' files."""
        return self._bundles.stamps()

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[Pipeline]:
        """Yield the pipeline of a model; it stays usable to the end of the block.

        Without a name, or with an empty one, it is the default's.

        Raises:
            UnknownModelError: no model has this name.
        """
        held = self._held(name or self.default)
        held.take()
        try:
            yield held.pipeline
        finally:
            held.release()

    async def reload(self, *, again: bool = False) -> None:
        """Load every bundle that changed; a faulty one changes nothing.

        Args:
            again: also try those that were refused and have not changed since.
        """
        async with self._reloading:
            for index in await asyncio.to_thread(self._bundles.refresh, again=again):
                loaded = self._bundles.loaded[index]
                before = self._held_models[index]
                self._held_models[index] = _Held(self._pipeline(loaded))
                self._retire(before)
                if before.name != loaded.model.name:
                    self._forgetting(before.name)
                _log.info(
                    "Reloaded: %s, %s", loaded.model.name, loaded.model.artifact.fingerprint
                )

    async def close(self) -> None:
        """Finish accepted requests, and close every model."""
        for held in self._held_models:
            self._retire(held)
        await asyncio.gather(*self._retiring)

    def _pipeline(self, loaded: Loaded) -> Pipeline:
        observer = self._observing(loaded.model)
        return Pipeline(loaded.model, observer, loaded.plan, self.room)

    def _held(self, name: str) -> "_Held":
        for held in self._held_models:
            if held.name == name:
                return held
        raise UnknownModelError(name, self.names)

    def _retire(self, held: "_Held") -> None:
        task = asyncio.create_task(held.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


@asynccontextmanager
async def kept_current(models: Models) -> AsyncIterator[None]:
    """Load changed bundles at SIGHUP and, with `ISOGON_WATCH`, by itself.

    Watching waits until a changed bundle has been unchanged for a second: it may still be
    copied. SIGHUP loads at once, and tries refused bundles again.
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
        except Exception:  # for example a disk error; the next check may succeed
            _log.exception("Could not check for changed bundles")


class _Held:
    """A pipeline, with a count of the requests that hold it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._holders = 0
        self._free = asyncio.Event()
        self._free.set()

    @property
    def name(self) -> str:
        return self.pipeline.model.name

    def take(self) -> None:
        self._holders += 1
        self._free.clear()

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._free.set()

    async def retire(self) -> None:
        """Close the pipeline when no request holds it."""
        await self._free.wait()
        await self.pipeline.close()
