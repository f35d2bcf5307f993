"""TensorRT's own account of a build, shown as nested bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress, TaskID

from isogon.runtimes import Flavour
from isogon.runtimes.flavours import tensorrt_module


def progress_monitor(flavour: Flavour, progress: Progress) -> Any:
    """Return an `IProgressMonitor` of the flavour that draws on `progress`.

    Each phase is a bar below its parent's, and goes when it is done; the outermost stay.
    Ctrl-C during a build stops it at the next step: `interrupted` is then true, because
    no exception passes through TensorRT. Phases may come from several threads.
    """
    tensorrt = tensorrt_module(flavour)

    class PhaseBars(tensorrt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._open: dict[str, tuple[TaskID, int]] = {}  # phase -> bar, depth

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._noting_interrupts():
                depth = self._open[parent][1] + 1 if parent in self._open else 0
                bar = progress.add_task("  " * depth + phase, total=steps)
                self._open[phase] = (bar, depth)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._noting_interrupts():
                if phase in self._open:
                    progress.update(self._open[phase][0], completed=step + 1)
            return not self.interrupted

        def phase_finish(self, phase: str) -> None:
            with self._noting_interrupts():
                bar, depth = self._open.pop(phase)
                if depth:
                    progress.remove_task(bar)
                else:
                    (task,) = (task for task in progress.tasks if task.id == bar)
                    progress.update(bar, completed=task.total)

        @contextmanager
        def _noting_interrupts(self) -> Iterator[None]:
            try:
                yield
            except KeyboardInterrupt:
                self.interrupted = True

    return PhaseBars()
