"""The models behind one service, and which of them answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from serving.batching import Pipeline
from serving.served import ServedModel
from serving.settings import Settings


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
    async def use(self) -> AsyncIterator[Pipeline]:
        """Yield the pipeline of a model; it stays usable to the end of the block."""
        yield self._pipeline
