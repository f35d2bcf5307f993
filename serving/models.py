"""The models behind one service, and which of them answers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from serving.batching import Pipeline
from serving.served import ServedModel
from serving.settings import Settings


class UnknownModelError(Exception):
    """A model is asked for that is not served here."""

    def __init__(self, name: str | None, served: Sequence[str]) -> None:
        super().__init__(
            f"No model {name!r:.80} is served here, but {', '.join(served)}. Name one of "
            f"them, or none for the default."
        )


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
        if name not in (None, served):
            raise UnknownModelError(name, [served])
        yield self._pipeline
