"""Several processes on one port: a supervisor loads the models and forks the workers.

The supervisor loads and proves the bundles, and answers no requests. Its workers are
forked from it: they share the memory of imported modules and weights, and a dead worker is
replaced within milliseconds. They accept from the same sockets, so a dead worker loses no
connection that waits to be accepted, and they have about as many connections each
(`accepting.py`). The supervisor sums the metrics of all workers.

ONNX Runtime's sessions survive a fork because a run with one thread has no thread pool.
Runs with several threads, and GPUs, need a single process.
"""

import itertools
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from socket import socket, socketpair

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from isogon.errors import CheckFailedError, UsageError, option
from serving.bento.service import app, freeze
from serving.bundles import Bundles
from serving.launch.accepting import BACKLOG, ConnectionTable
from serving.launch.listening import BEYOND_DEADLINE
from serving.launch.worker import (
    ServiceComplete,
    StartAnswering,
    SummedMetrics,
    WorkerReady,
    WorkerReport,
    work,
)
from serving.limits import KeyRing
from serving.observability import Observations, start_logging, traces_are_asked_for
from serving.observability.metrics import Summed, kept, summed
from serving.settings import Settings

_EVERY = 1.0  # seconds between two checks of bundles and workers
_AGAIN = 1.0  # seconds before a worker that failed to start is replaced
_SPARE = 2.0  # seconds beyond the time that a worker may take to end
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_fork = get_context("fork")
_log = logging.getLogger("isogon.serving")


def supervise(
    sockets: Sequence[socket],
    settings: Settings,
    announce: Callable[[Sequence[str]], None],
) -> None:
    """Answer with several processes until SIGTERM or SIGINT, and finish what was accepted.

    Args:
        sockets: bound; listened on once every process is ready.
        settings: of the operator, for all processes together.
        announce: is called with the models' names once they are loaded.

    Raises:
        IsogonError: a setting, a bundle or its golden check is not in order.
    """
    start_logging(settings)
    traces_are_asked_for()  # raises here what every worker would raise
    KeyRing.of(settings)  # likewise
    bundles = Bundles.load(settings.of_each_process())
    for loaded in bundles.loaded:
        if loaded.model.runner.on_device:
            raise UsageError(
                f"{loaded.model.name} runs on a GPU, which needs a single process. Leave "
                f"{option('processes')} out."
            )
    announce([loaded.model.name for loaded in bundles.loaded])
    Supervisor(sockets, bundles, settings.processes).run()


@dataclass(kw_only=True, slots=True, eq=False)
class _Worker:
    process: BaseProcess
    channel: Connection
    place: int  # in the table of connections
    generation: int  # counts reloads; the bundles that it answers from
    ready: bool = False
    retired: bool = False  # told to end
    families: tuple[Metric, ...] = ()  # of its last report


class Supervisor:
    """Starts the workers, sums their metrics, replaces dead ones, and ends them."""

    def __init__(self, sockets: Sequence[socket], bundles: Bundles, count: int) -> None:
        self._sockets = sockets
        self._bundles = bundles
        self._count = count
        self._generation = 0
        self._workers: list[_Worker] = []
        self._connections = ConnectionTable()
        self._past: tuple[Metric, ...] = ()  # metrics of workers that ended
        self._signals: list[int] = []
        self._started = False  # all were ready at the same time once
        self._end: float | None = None  # when remaining workers are killed
        self._not_before = 0.0  # when a worker may be started
        self._stamps = bundles.stamps()
        self._observations: Observations = app.state.observations
        registry: CollectorRegistry = app.state.metrics.registry
        self._answering = Gauge(
            "isogon_processes", "Processes that answer.", registry=registry
        )
        self._restarts = Counter(
            "isogon_process_restarts",
            "Processes that ended unexpectedly and were replaced.",
            registry=registry,
        )
        for loaded in bundles.loaded:
            self._observations.follow(loaded.model)

    def run(self) -> None:
        """Return once SIGTERM or SIGINT has come, and every worker has ended.

        Raises:
            CheckFailedError: a worker could not be started at all.
        """
        # Python 3.12 warns about a fork with threads; here they are OpenBLAS's.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        freeze()
        with self._signalled() as wakeup:
            try:
                while self._end is None or self._workers:
                    self._start_missing()
                    self._wait(wakeup)
                    self._handle_signals()
                    if self._end is None:
                        self._check_bundles()
                    elif time.monotonic() > self._end:
                        self._kill()
            finally:
                self._kill()

    @contextmanager
    def _signalled(self) -> Iterator[socket]:
        """Yield a socket that becomes readable when a signal arrives."""
        reading, writing = socketpair()
        with reading, writing:
            for each in (reading, writing):
                each.setblocking(False)
            before = {
                number: signal.signal(number, lambda came, _: self._signals.append(came))
                for number in _HANDLED
            }
            signal.set_wakeup_fd(writing.fileno())
            try:
                yield reading
            finally:
                signal.set_wakeup_fd(-1)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _wait(self, wakeup: socket) -> None:
        """Handle what workers send within a second, and workers that ended."""
        open_channels = {
            each.channel: each for each in self._workers if not each.channel.closed
        }
        sentinels = [each.process.sentinel for each in self._workers]
        for found in wait([wakeup, *open_channels, *sentinels], _EVERY):
            if found is wakeup:
                wakeup.recv(1024)
            elif isinstance(found, Connection):
                self._hear(open_channels[found])
        for worker in [each for each in self._workers if not each.process.is_alive()]:
            self._remove(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            message = worker.channel.recv()
        except (EOFError, OSError):
            worker.channel.close()
            return
        match message:
            case WorkerReady():
                worker.ready = True
                self._admit()
            case WorkerReport():
                worker.families = message.families
                for (name, fingerprint), scores in message.scores.items():
                    self._observations.judge(name, fingerprint, scores)
                if message.ticket is not None:
                    self._expose(worker, message.ticket, message.accept)

    def _admit(self) -> None:
        """Let ready workers answer; once all are ready, end those of older bundles."""
        current = [each for each in self._current() if each.ready]
        if len(current) == self._count and not self._started:
            self._started = True
            for each in self._sockets:
                each.listen(BACKLOG)
        if self._started:
            for worker in current:
                _send(worker, StartAnswering())
        if len(current) == self._count:
            for worker in self._workers:
                if worker.generation < self._generation:
                    self._retire(worker)
        self._update_complete()

    def _update_complete(self) -> None:
        answering = [each for each in self._workers if each.ready and not each.retired]
        self._answering.set(len(answering))
        complete = not self._started or len(answering) >= self._count
        if complete is not app.state.complete:
            app.state.complete = complete  # workers forked later inherit it
            for worker in self._workers:
                _send(worker, ServiceComplete(complete=complete))

    def _expose(self, worker: _Worker, ticket: int, accept: str) -> None:
        families = summed(
            [
                tuple(app.state.metrics.registry.collect()),
                self._past,
                *(each.families for each in self._workers),
            ]
        )
        encode, kind = choose_encoder(accept)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Summed(families))
        _send(worker, SummedMetrics(ticket=ticket, content=encode(registry), kind=kind))

    def _start_missing(self) -> None:
        if self._end is None and time.monotonic() >= self._not_before:
            for _ in range(self._count - len(self._current())):
                self._workers.append(self._forked())

    def _forked(self) -> _Worker:
        ours, theirs = _fork.Pipe()
        inherited = [ours, *(each.channel for each in self._workers)]
        taken = {each.place for each in self._workers}
        place = next(free for free in itertools.count() if free not in taken)
        count = self._connections.at(place)
        arguments = (theirs, inherited, self._sockets, self._bundles, count)
        process = _fork.Process(target=work, args=arguments)
        # Signals to the worker wait until it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        theirs.close()
        return _Worker(
            process=process, channel=ours, place=place, generation=self._generation
        )

    def _remove(self, worker: _Worker) -> None:
        """Keep the metrics of a worker that ended, and log it if that was unexpected."""
        while not worker.channel.closed and worker.channel.poll():
            self._hear(worker)
        worker.channel.close()
        worker.process.join()
        self._workers.remove(worker)
        self._connections.at(worker.place).end()
        self._past = kept(summed([self._past, worker.families]))
        if not worker.retired and self._end is None:
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"status {code}"
            if not self._started:
                raise CheckFailedError(
                    f"A process of the service ended with {how} before it was ready. Its "
                    f"message, if any, is above; try without {option('processes')}."
                )
            _log.error(
                "Process %d of the service ended with %s. A new one is started.",
                worker.process.pid,
                how,
            )
            self._restarts.inc()
            if not worker.ready:
                self._not_before = time.monotonic() + _AGAIN
        self._update_complete()

    def _handle_signals(self) -> None:
        """Handle the signals that arrived."""
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._reload(again=True)
            elif self._end is None:
                _log.info("Finishing what was accepted")
                for each in self._sockets:
                    each.close()
                deadline = self._bundles.settings.deadline
                self._end = time.monotonic() + deadline + BEYOND_DEADLINE + _SPARE
                for worker in self._workers:
                    self._retire(worker)
            elif number == signal.SIGINT:
                self._kill()  # Ctrl-C was pressed twice

    def _check_bundles(self) -> None:
        """Reload changed bundles, once they have been unchanged for a second."""
        if self._bundles.settings.watch:
            before, self._stamps = self._stamps, self._bundles.stamps()
            if self._stamps == before:
                self._reload(again=False)

    def _reload(self, *, again: bool) -> None:
        """Load changed bundles and start workers that answer from them.

        The old workers answer until the new ones are ready. The supervisor does nothing
        else while it loads.
        """
        before = self._bundles.loaded
        changed = self._bundles.refresh(again=again)
        for index in changed:
            self._observations.unfollow(before[index].model.name)
        for index in changed:
            model = self._bundles.loaded[index].model
            self._observations.follow(model)
            _log.info("Reloaded: %s, %s", model.name, model.artifact.fingerprint)
        if changed:
            freeze()
            self._generation += 1

    def _current(self) -> list[_Worker]:
        return [each for each in self._workers if each.generation == self._generation]

    def _retire(self, worker: _Worker) -> None:
        if not worker.retired:
            worker.retired = True
            _signal(worker, signal.SIGTERM)

    def _kill(self) -> None:
        for worker in self._workers:
            _signal(worker, signal.SIGKILL)


def _send(
    worker: _Worker, message: StartAnswering | ServiceComplete | SummedMetrics
) -> None:
    if not worker.channel.closed:
        try:
            worker.channel.send(message)
        except OSError:  # it died; `_wait` sees its sentinel
            worker.channel.close()


def _signal(worker: _Worker, number: int) -> None:
    if worker.process.is_alive() and worker.process.pid is not None:
        os.kill(worker.process.pid, number)
