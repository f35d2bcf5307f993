"""Ray Data: the same parts by the same function, on the machines of a Ray cluster.

Bundle and images must lie under the same paths on every machine. The rows come back to
the machine that asked, which alone writes.
"""

import logging
import os
import pickle
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from bulk.engines.engine import Engine, Finished
from bulk.job import Job
from bulk.model import Model
from bulk.part import embed_part
from bundle import IsogonError, UsageError

_STORE = 512 * 2**20  # bytes; of a cluster of our own, which holds job and parts only
_PATIENCE = 10  # seconds
_GPU_DECODERS = 8  # threads


@dataclass(frozen=True, kw_only=True, slots=True)
class RayEngine(Engine):
    """Actors of Ray Data, one per core, or one per GPU.

    Args:
        workers: how many actors; None for as many as the cluster holds.
        address: of the cluster, such as "auto"; None starts one on this machine, for
            this run only.
    """

    workers: int | None
    address: str | None

    def decoders(self, *, on_gpu: bool) -> int:
        """Return one on the CPU, beside a GPU several."""
        return _GPU_DECODERS if on_gpu else 1

    def run(self, job: Job, parts: Sequence[int]) -> Finished:
        """Do these parts.

        Raises:
            UsageError: Ray is not installed, the cluster is not there, or it gave up.
            IsogonError: a worker cannot do its part, or its model.
        """
        with _cluster(self.address, self.workers) as ray:
            gpus = 1 if job.decoders > 1 else 0
            held = ray.cluster_resources().get("GPU" if gpus else "CPU", 1)
            actors = min(self.workers or max(1, int(held)), len(parts))
            # A block for each part: a block is what comes back as soon as it is done.
            numbers = ray.data.from_items(
                [{"part": part} for part in parts], override_num_blocks=len(parts)
            )
            finished = numbers.map_batches(
                _Actor,
                fn_constructor_args=(ray.put(job),),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_gpus=gpus,
            )
            try:
                for row in finished.iter_rows():
                    answer: tuple[int, bytes] | IsogonError = pickle.loads(row["answer"])
                    if isinstance(answer, IsogonError):
                        raise answer
                    yield answer
            except ray.exceptions.RayTaskError:  # a fault of ours, with its traceback
                raise
            except ray.exceptions.RayError as error:
                raise UsageError(
                    f"Ray ended the run: {error} What is finished is kept: run the same "
                    f"command again."
                ) from error


class _Actor:
    """A worker; it opens the model when its first part comes.

    Our own errors are answers: of what an actor raises Ray keeps the text alone.
    """

    def __init__(self, job: Any) -> None:
        import ray

        self._job: Job = ray.get(job)
        self._model: Model | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        answer: tuple[int, bytes] | IsogonError
        try:
            self._model = self._model or Model.for_job(self._job)
            (part,) = batch["part"].to_pylist()
            answer = part, embed_part(self._model, self._job, part).to_bytes()
        except IsogonError as error:
            answer = error
        return pa.table({"answer": pa.array([pickle.dumps(answer)], pa.large_binary())})


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """Join the cluster, or start one; leave it afterwards, or end it.

    Raises:
        UsageError: Ray is not installed, or no cluster is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent outside
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of itself
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "The engine `ray` needs the package `ray[data]`, which is not installed. "
            "Install the extra `ray`, or leave --engine out."
        ) from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        _require_reachable(address or "")
        ray.init(
            address=address or "local",
            num_cpus=None if address else workers,
            object_store_memory=None if address else _STORE,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"No Ray cluster answers at {address}: {error}. Start one with `ray start "
            f"--head`, give its --address and, in RAY_AUTH_TOKEN, its token; or leave "
            f"--address out."
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's handler would end without a word
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ask once whether anybody listens: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
