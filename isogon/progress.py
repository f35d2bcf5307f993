"""The interface by which long work reports its progress: counted tasks, and sentences.

The command line passes a `rich.progress.Progress`. Any other class with these methods
works too.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Progress(Protocol):
    """Tasks that count up to a total, and a console."""

    @property
    def console(self) -> Any:
        """A `rich.console.Console`, or an object with its `print`: see `say`."""

    def add_task(
        self, description: str, /, *, total: float | None = None, completed: int = 0
    ) -> Any:
        """Begin a task; return its identifier for the other methods.

        Args:
            description: the work, in a few words.
            total: number of steps; None while unknown.
            completed: number of steps that an earlier run has done.
        """

    def update(
        self,
        task: Any,
        /,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None:
        """Change the properties of a task that are not None."""

    def advance(self, task: Any, /, advance: float = 1) -> None:
        """Count finished steps."""

    def remove_task(self, task: Any, /) -> None:
        """Remove a task."""

    def track(
        self,
        sequence: Iterable[T],
        /,
        total: float | None = None,
        *,
        description: str = "Working",
    ) -> Iterable[T]:
        """Yield the items of a sequence, and count them as a task."""


def say(progress: Progress, text: str) -> None:
    """Print a sentence as plain text, without markup and without line breaks."""
    progress.console.print(text, markup=False, soft_wrap=True)


class Silent:
    """Progress that is not shown."""

    @property
    def console(self) -> "Silent":
        """Itself, since it also discards sentences."""
        return self

    def print(self, *words: Any, **_: Any) -> None:
        """Print nothing."""

    def add_task(self, description: str, /, **_: Any) -> None:
        """Begin nothing."""

    def update(self, task: Any, /, **_: Any) -> None:
        """Change nothing."""

    def advance(self, task: Any, /, advance: float = 1) -> None:
        """Count nothing."""

    def remove_task(self, task: Any, /) -> None:
        """Remove nothing."""

    def track(
        self, sequence: Iterable[T], /, total: float | None = None, *, description: str = ""
    ) -> Iterator[T]:
        """Yield from a sequence."""
        yield from sequence
