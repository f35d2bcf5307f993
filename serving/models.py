"""The models behind one service: which of them answers, and how one is replaced."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from isogon.errors import IsogonError, UsageError
from serving.batching import Observer, Pipeline, Room
from serving.lists import Source
from serving.served import ServedModel
from serving.settings import Settings
from serving.stamp import Stamp, stamp

Observing = Callable[[ServedModel], Observer]
Forgetting = Callable[[str], None]

_BRIEF = 80  # characters of a name that is not known

_log = logging.getLogger("isogon.serving")


class UnknownModelError(Exception):
    """A request names a model that is not served."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        served = ", ".join(map(repr, names))
        asked = repr(name if len(name) <= _BRIEF else name[:_BRIEF] + "…")
        super().__init__(f"There is no model {asked} here. Ask for one of {served}.")


class Models:
    """The served models by name; the first is the default.

    A request holds the pipeline it uses. One that is replaced goes on until the last
    request lets go of it, and is closed then.
    """

    def __init__(
        self,
        settings: Settings,
        room: Room,
        places: tuple["_Place", ...],
        observing: Observing,
        forgetting: Forgetting,
    ) -> None:
        self.settings = settings
        self.room = room  # that large images of all models share
        self._places = places
        self._observing = observing
        self._forgetting = forgetting
        self._reloading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    @classmethod
    def load(
        cls,
        settings: Settings,
        observing: Observing = lambda _: Observer(),
        forgetting: Forgetting = lambda _: None,
    ) -> Self:
        """Load what `settings` name, ready to answer.

        Args:
            settings: of the operator.
            observing: returns who hears of a model's pipeline.
            forgetting: hears the name of a model that is served no more.

        Raises:
            IsogonError: a bundle or its golden check is not in order, or two have the
                same name.
        """
        loaded: dict[str, tuple[Source, Stamp, ServedModel]] = {}
        for source in settings.bundle:
            found = stamp(source.path)
            model = ServedModel.load(source.path, settings, source.name)
            _require_unused(model.name, source, {n: loaded[n][0] for n in loaded})
            loaded[model.name] = (source, found, model)
        room = Room.of(settings)  # of the memory that the models have left
        places = tuple(
            _Place(source, found, Pipeline(model, observing(model), room))
            for source, found, model in loaded.values()
        )
        return cls(settings, room, places, observing, forgetting)

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call the models, the default first."""
        return tuple(place.name for place in self._places)

    @property
    def default(self) -> str:
        """The model that answers where a request names none."""
        return self.names[0]

    def stamps(self) -> tuple[Stamp, ...]:
        """Return how the bundles look from outside, right now."""
        return tuple(stamp(place.source.path) for place in self._places)

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
        """Take up every bundle that changed; one that is not in order changes nothing.

        Args:
            again: try those too that were refused and have not changed since.
        """
        async with self._reloading:
            for place in self._places:
                found = await asyncio.to_thread(stamp, place.source.path)
                if found == (place.taken if again else place.tried):
                    continue
                place.tried = found
                try:
                    pipeline = await self._loaded(place)
                except (IsogonError, OSError) as error:
                    _log.error("Not taken up: %s %s answers as before.", error, place.name)
                except Exception:
                    _log.exception("Not taken up; %s answers as before.", place.name)
                else:
                    before = place.replace(found, pipeline)
                    self._retire(before)
                    if (name := before.pipeline.model.name) != place.name:
                        self._forgetting(name)
                    model = pipeline.model
                    _log.info("Taken up: %s, %s", model.name, model.artifact.fingerprint)

    async def close(self) -> None:
        """Finish what was accepted, and let go of every model."""
        for place in self._places:
            self._retire(place.held)
        await asyncio.gather(*self._retiring)

    async def _loaded(self, place: "_Place") -> Pipeline:
        source = place.source
        load = ServedModel.load
        model = await asyncio.to_thread(load, source.path, self.settings, source.name)
        others = {other.name: other.source for other in self._places if other is not place}
        _require_unused(model.name, source, others)
        return await asyncio.to_thread(Pipeline, model, self._observing(model), self.room)

    def _held(self, name: str) -> "_Held":
        for place in self._places:
            if place.name == name:
                return place.held
        raise UnknownModelError(name, self.names)

    def _retire(self, held: "_Held") -> None:
        task = asyncio.create_task(held.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


class _Held:
    """A pipeline, and how many requests hold it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._holders = 0
        self._free = asyncio.Event()
        self._free.set()

    def take(self) -> None:
        self._holders += 1
        self._free.clear()

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._free.set()

    async def retire(self) -> None:
        """Close the pipeline after the last request has let go of it."""
        await self._free.wait()
        await self.pipeline.close()


class _Place:
    """Where a model comes from, and the one in force."""

    def __init__(self, source: Source, found: Stamp, pipeline: Pipeline) -> None:
        self.source = source
        self.taken = self.tried = found
        self.held = _Held(pipeline)

    @property
    def name(self) -> str:
        return self.held.pipeline.model.name

    def replace(self, found: Stamp, pipeline: Pipeline) -> _Held:
        """Bring a pipeline into force and return the one before."""
        before, self.held = self.held, _Held(pipeline)
        self.taken = found
        return before


def _require_unused(name: str, source: Source, names: dict[str, Source]) -> None:
    if name in names:
        raise UsageError(
            f"Two bundles are called {name!r}: {names[name]} and {source}. Requests tell "
            f"models apart by name: give one another, as in `{name}-2={source.path}`."
        )
