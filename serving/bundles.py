"""The bundles behind one service: loaded, proven, measured, and looked at for changes."""

import logging
from dataclasses import dataclass
from typing import Self

from isogon.errors import IsogonError, UsageError
from serving.batching import BatchPlan, plan_for
from serving.served import ServedModel
from serving.settings import Settings, Source
from serving.stored import Stamp, stamp

_log = logging.getLogger("isogon.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model that is ready to run, and how; it has no threads yet."""

    stamp: Stamp  # how its bundle looked from outside
    model: ServedModel
    plan: BatchPlan

    @classmethod
    def of(cls, source: Source, settings: Settings) -> Self:
        """Load a bundle: golden check and measurement included.

        Raises:
            IsogonError: the bundle or its golden check is not in order.
        """
        found = stamp(source.path)
        model = ServedModel.load(source.path, settings, source.name)
        return cls(stamp=found, model=model, plan=plan_for(model))


class _Place:
    """Where a bundle comes from, and what was loaded from there."""

    def __init__(self, source: Source, loaded: Loaded) -> None:
        self.source = source
        self.loaded = loaded
        self.tried = loaded.stamp  # refused since then, if it is not that of `loaded`

    @property
    def name(self) -> str:
        return self.loaded.model.name


class Bundles:
    """What was loaded from each of the operator's places; the first is the default."""

    def __init__(self, settings: Settings, places: tuple[_Place, ...]) -> None:
        self.settings = settings
        self._places = places

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load what `settings` name.

        Raises:
            IsogonError: a bundle or its golden check is not in order, or two have the
                same name.
        """
        places: list[_Place] = []
        for source in settings.bundle:
            loaded = Loaded.of(source, settings)
            _require_unused(loaded.model.name, source, places)
            places.append(_Place(source, loaded))
        return cls(settings, tuple(places))

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """What is in force, in the order of the places."""
        return tuple(place.loaded for place in self._places)

    def stamps(self) -> tuple[Stamp, ...]:
        """Return how the bundles look from outside, right now."""
        return tuple(stamp(place.source.path) for place in self._places)

    def refresh(self, *, again: bool = False) -> tuple[int, ...]:
        """Load every bundle that changed; one that is not in order changes nothing.

        Args:
            again: try those too that were refused and have not changed since.

        Returns:
            The indices of the places from which something else is in force now.
        """
        return tuple(
            index
            for index, place in enumerate(self._places)
            if self._is_refreshed(place, again)
        )

    def _is_refreshed(self, place: _Place, again: bool) -> bool:
        found = stamp(place.source.path)
        if found == (place.loaded.stamp if again else place.tried):
            return False
        place.tried = found
        try:
            loaded = Loaded.of(place.source, self.settings)
            others = [other for other in self._places if other is not place]
            _require_unused(loaded.model.name, place.source, others)
        except (IsogonError, OSError) as error:
            _log.error("Not taken up: %s %s answers as before.", error, place.name)
        except Exception:
            _log.exception("Not taken up; %s answers as before.", place.name)
        else:
            place.loaded = loaded
            place.tried = loaded.stamp
            return True
        return False


def _require_unused(name: str, source: Source, places: list[_Place]) -> None:
    for place in places:
        if place.name == name:
            raise UsageError(
                f"Two bundles are called {name!r}: {place.source} and {source}. Requests "
                f"tell models apart by name: give one another, as in "
                f"`{name}-2={source.path}`."
            )
