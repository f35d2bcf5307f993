"""How long work tells what it does: counted tasks, and sentences. It never draws itself.

The command line shows it with Rich; any `rich.progress.Progress` fits, and so does a
class of one's own with these methods.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Progress(Protocol):
    """Tasks with a total that is counted up to, and a console."""

    @property
    def console(self) -> Any:
        """A `rich.console.Console`, or what prints like one: see `say`."""

    def add_task(
        self, description: str, /, *, total: float | None = None, completed: int = 0
    ) -> Any:
        """Begin a task, and return what it is called in the other methods.

        Args:
            description: what is done, in a few words.
            total: of steps; None while nobody knows.
            completed: how many of them an earlier run has done.
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
        """Change what is not None of a task."""

    def advance(self, task: Any, /, advance: float = 1) -> None:
        """Count steps that are done."""

    def remove_task(self, task: Any, /) -> None:
        """Forget a task."""

    def track(
        self,
        sequence: Iterable[T],
        /,
        total: float | None = None,
        *,
        description: str = "Working",
    ) -> Iterable[T]:
        """Yield from a sequence, as a task that counts its items."""


def say(progress: Progress, text: str) -> None:
    """Write a sentence as it is: nothing in it is markup, and no line of it is broken."""
    progress.console.print(text, markup=False, soft_wrap=True)


class Silent:
    """Tells nobody."""

    @property
    def console(self) -> "Silent":
        """Where sentences vanish."""
        return self

    def print(self, *words: Any, **_: Any) -> None:
        """Write nothing."""

    def add_task(self, description: str, /, **_: Any) -> None:
        """Begin a task that nobody sees."""

    def update(self, task: Any, /, **_: Any) -> None:
        """Change nothing."""

    def advance(self, task: Any, /, advance: float = 1) -> None:
        """Count nothing."""

    def remove_task(self, task: Any, /) -> None:
        """Forget nothing."""

    def track(
        self, sequence: Iterable[T], /, total: float | None = None, *, description: str = ""
    ) -> Iterator[T]:
        """Yield from a sequence."""
        yield from sequence
