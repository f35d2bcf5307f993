"""The parts of a job in processes of this machine, each with a model of its own.

A worker shares nothing but one pipe with its parent, and nothing with other workers. So
each end notices when the other has ended, however it ended. `concurrent.futures` shares
one queue among all workers, and its workers outlive a killed parent.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

from isogon.bulk.executors.executor import Executor, Finished
from isogon.bulk.job import BulkJob
from isogon.bulk.worker import embed_part, model_for_job
from isogon.errors import IsogonError, UsageError, option

_Answer = tuple[int, bytes] | Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessExecutor(Executor):
    """Several processes on a CPU; with a GPU one process, with several decoding threads."""

    workers: int

    def decoders(self, *, on_gpu: bool) -> int:
        """Return the number of workers with a GPU, else 1."""
        return self.workers if on_gpu else 1

    def run(self, job: BulkJob, parts: Sequence[int]) -> Finished:
        """Run these parts.

        Raises:
            UsageError: a process died.
            IsogonError: a worker cannot open the model, or cannot do its part.
        """
        processes = 1 if job.decoders > 1 else min(self.workers, len(parts))
        waiting = deque(parts)
        workers: dict[Connection, _Worker] = {}
        try:
            with _uninterrupted():
                for _ in range(processes):
                    worker = _Worker.start()
                    workers[worker.end] = worker
            content = pickle.dumps(job)
            for worker in workers.values():
                worker.begin(content)
                worker.give(waiting.popleft())
            at_work = set(workers)
            while at_work:
                for end in connection.wait(at_work):
                    assert isinstance(end, Connection)
                    answer = workers[end].answer()
                    if waiting:
                        workers[end].give(waiting.popleft())
                    else:
                        at_work.remove(end)
                    yield answer
        finally:
            for worker in workers.values():
                worker.stop()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """The parent's end of a worker process."""

    process: BaseProcess
    end: Connection

    @classmethod
    def start(cls) -> Self:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs,), daemon=True)
        with _main_module_unnamed():
            process.start()
        theirs.close()
        return cls(process=process, end=ours)

    def begin(self, job: bytes) -> None:
        with self._alive():
            self.end.send_bytes(job)

    def give(self, part: int) -> None:
        with self._alive():
            self.end.send(part)

    def answer(self) -> tuple[int, bytes]:
        with self._alive():
            answer: _Answer = self.end.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        """Kill it: it holds nothing that has to be saved."""
        self.end.close()
        self.process.kill()
        self.process.join()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.process.join(timeout=10)
            code = self.process.exitcode
            how = "ended" if code is None else f"ended with exit status {code}"
            if code is not None and code < 0:
                how = f"was ended by {signal.Signals(-code).name}"
            raise UsageError(
                f"A worker process {how} during its part. If nobody stopped it, memory has "
                f"run out. Finished parts are kept: run the same command again, with "
                f"fewer {option('workers')}."
            ) from error


@contextmanager
def _main_module_unnamed() -> Iterator[None]:
    """Keep processes started here from running the caller's script again.

    A spawned process imports the main module first. A worker needs nothing of it, and a
    script without `if __name__ == "__main__":` would start from its first line.
    """
    main = vars(sys.modules["__main__"])
    # A notebook's main module has no file.
    names = [name for name in ("__spec__", "__file__") if name in main]
    before: dict[str, Any] = {name: main[name] for name in names}
    main.update(dict.fromkeys(before))
    try:
        yield
    finally:
        main.update(before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Block Ctrl-C in processes started here: only the parent handles it."""
    resource_tracker.ensure_running()  # if it starts later, it removes the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(end: Connection) -> None:
    """Run the parts that arrive through the pipe, until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job: BulkJob = pickle.loads(end.recv_bytes())
        model = model_for_job(job)
        while True:
            part = end.recv()
            end.send((part, embed_part(model, job, part).to_bytes()))
    except EOFError:
        return
    except Exception as error:
        if not isinstance(error, IsogonError):
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        end.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
