"""The models behind one service, and which of them answers."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

from serving.batching import Observer, Pipeline
from serving.served import ServedModel
from serving.settings import Settings


class Models:
    """The served models with their pipelines."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @classmethod
    def load(
        cls,
        settings: Settings,
        observer: Callable[[ServedModel], Observer] = lambda _: Observer(),
    ) -> Self:
        """Load what `settings` name, ready to answer.

        Args:
            settings: of the operator.
            observer: returns who hears of a model's pipeline.

        Raises:
            IsogonError: a bundle or its golden check is not in order.
        """
        model = ServedModel.load(settings.bundle, settings)
        return cls(Pipeline(model, observer(model)))

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Pipeline]:
        """Yield the pipeline of a model; it stays usable to the end of the block."""
        yield self._pipeline
