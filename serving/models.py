"""The models behind one service, and which of them answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from serving.batching import Pipeline
from serving.served import ServedModel
from serving.settings import Settings


class UnknownModelError(Exception):
    """A request names a model that is not served."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        served = ", ".join(map(repr, names))
        super().__init__(f"There is no model {name!r} here. Ask for one of {served}.")


class Models:
    """The served models with their pipelines."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Load what `settings` name, ready to answer.

        Raises:
            IsogonError: a bundle or its golden check is not in order.
        """
        return cls(Pipeline(ServedModel.load(settings.bundle, settings)))

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[Pipeline]:
        """Yield the pipeline of a model; it stays usable to the end of the block.

        Raises:
            UnknownModelError: no model of that name is served.
        """
        served = self._pipeline.model.name
        if name is not None and name != served:
            raise UnknownModelError(name, (served,))
        yield self._pipeline
