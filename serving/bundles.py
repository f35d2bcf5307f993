"""The bundles of one service: loaded, proven, measured, and reloaded when they change."""

import logging
from dataclasses import dataclass
from typing import Self

from isogon.errors import IsogonError, UsageError
from serving.batching import BatchPlan, plan_for
from serving.locations import Stamp, stamp
from serving.served_model import ServedModel
from serving.settings import Settings, Source

_log = logging.getLogger("isogon.serving")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model and its batch plan, ready to run; it has no threads yet."""

    stamp: Stamp  # of the bundle's files when it was loaded
    model: ServedModel
    plan: BatchPlan

    @classmethod
    def of(cls, source: Source, settings: Settings) -> Self:
        """Load a bundle, check its golden images, and measure it.

        Raises:
            IsogonError: the bundle is faulty, or its golden check fails.
        """
        found = stamp(source.path)
        model = ServedModel.load(source.path, settings, source.name)
        return cls(stamp=found, model=model, plan=plan_for(model))


class _Place:
    """A bundle's source, and what was loaded from it."""

    def __init__(self, source: Source, loaded: Loaded) -> None:
        self.source = source
        self.loaded = loaded
        # Of the files that were last tried; refused, if it is not that of `loaded`.
        self.tried = loaded.stamp

    @property
    def name(self) -> str:
        return self.loaded.model.name


class Bundles:
    """The bundles loaded from the operator's sources; the first is the default."""

    def __init__(self, settings: Settings, places: tuple[_Place, ...]) -> None:
        self.settings = settings
        self._places = places

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load what `settings` name.

        Raises:
            IsogonError: a bundle is faulty, its golden check fails, or two have the same
                name.
        """
        places: list[_Place] = []
        for source in settings.bundle:
            loaded = Loaded.of(source, settings)
            _require_unused(loaded.model.name, source, places)
            places.append(_Place(source, loaded))
        return cls(settings, tuple(places))

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """What is loaded now, in the order of the sources."""
        return tuple(place.loaded for place in self._places)

    def stamps(self) -> tuple[Stamp, ...]:
        """Return the current stamps of the bundles' files."""
        return tuple(stamp(place.source.path) for place in self._places)

    def refresh(self, *, again: bool = False) -> tuple[int, ...]:
        """Load every bundle that changed; a faulty one changes nothing.

        Args:
            again: also try those that were refused and have not changed since.

        Returns:
            The indices of the sources that were loaded again.
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
            _log.error("Not loaded: %s %s answers as before.", error, place.name)
        except Exception:
            _log.exception("Not loaded; %s answers as before.", place.name)
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
                f"choose a model by its name. Give one another name, such as "
                f"`{name}-2={source.path}`."
            )
