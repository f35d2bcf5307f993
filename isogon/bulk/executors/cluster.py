"""The parts of a job on a Ray cluster.

The bundle and the images must be at the same paths on every machine. Rows return to the
machine that started the run, which alone writes. Every part travels with the marks of its
files, so that a worker notices an incomplete or stale copy. One queue hands out the parts,
rather than Ray Data: a node that fails at one part gets no more.
"""

import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from isogon.bulk.executors.executor import Executor, Finished
from isogon.bulk.job import BulkJob, Marks, marks_of, require_marked
from isogon.bulk.worker import embed_part, model_for_job
from isogon.errors import IsogonError, UsageError, option
from isogon.model import Model

_STORE = 512 * 2**20  # bytes: the object store of a local cluster; job and parts only
_PATIENCE = 10  # seconds to connect
_GPU_DECODERS = 8  # decoding threads per GPU


@dataclass(frozen=True, kw_only=True, slots=True)
class RayExecutor(Executor):
    """Ray actors, one per core or one per GPU.

    A worker that cannot do its part gets no more parts, and another worker does it. Its
    node may lack a file, or have a different file or bundle.

    Args:
        workers: number of actors; None for as many as the cluster holds.
        address: of the cluster, such as "auto"; None starts a cluster on this machine for
            this run only.
    """

    workers: int | None
    address: str | None

    def decoders(self, *, on_gpu: bool) -> int:
        """Return 1 on a CPU, and several for a GPU."""
        return _GPU_DECODERS if on_gpu else 1

    def run(self, job: BulkJob, parts: Sequence[int]) -> Finished:
        """Run these parts.

        Raises:
            UsageError: Ray is not installed, no cluster is there, Ray ended the run, or no
                node is left that can do its part.
        """
        with _cluster(self.address, self.workers) as ray:
            resource = "GPU" if job.decoders > 1 else "CPU"
            held = ray.cluster_resources().get(resource, 1)
            count = min(self.workers or max(1, int(held)), len(parts))
            actor = ray.remote(_Actor).options(
                **{f"num_{resource.lower()}s": 1}, scheduling_strategy="SPREAD"
            )
            shared = ray.put(job)
            waiting = deque(parts)
            resting = [actor.remote(shared) for _ in range(count)]
            at_work: dict[Any, tuple[Any, int]] = {}  # future answer -> worker, part
            faulty: dict[str, str] = {}  # node -> reason
            try:
                while waiting or at_work:
                    while waiting and resting:
                        worker, part = resting.pop(), waiting.popleft()
                        marks = marks_of(job.images, job.indices(part))
                        at_work[worker.embed.remote(part, marks)] = worker, part
                    if not at_work:
                        raise UsageError(_no_node_left(faulty))
                    (ready,), _ = ray.wait(list(at_work))
                    worker, part = at_work.pop(ready)
                    try:
                        answer: _Answer = ray.get(ready)
                    except ray.exceptions.RayActorError as error:
                        answer = _Fault(node=f"of part {part}", why=f"it ended: {error}")
                    if isinstance(answer, _Fault):
                        _record_fault(answer, faulty)
                        waiting.appendleft(part)
                    else:
                        resting.append(worker)
                        yield part, answer
            except ray.exceptions.RayTaskError:  # a bug in Isogon: show its traceback
                raise
            except ray.exceptions.RayError as error:
                raise UsageError(
                    f"Ray ended the run: {error} Finished parts are kept: run the same "
                    f"command again."
                ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """Why a node could not do its part."""

    node: str
    why: str


_Answer = bytes | _Fault  # a part as a Parquet file's content


class _Actor:
    """A worker; it opens the model at its first part.

    It returns Isogon's own errors as answers, because Ray keeps only the text of an
    exception that an actor raises.
    """

    def __init__(self, job: BulkJob) -> None:
        self._job = job
        self._model: Model | None = None

    def embed(self, part: int, marks: Marks) -> _Answer:
        """Return the part's Parquet content, or why this node cannot do it."""
        job = self._job
        try:
            require_marked(job.images, job.indices(part), marks)
            self._model = self._model or model_for_job(job)
            return embed_part(self._model, job, part).to_bytes()
        except (IsogonError, OSError) as error:
            return _Fault(node=_this_node(), why=str(error))


def _this_node() -> str:
    import ray.util

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{socket.gethostname()} ({address})"


def _record_fault(fault: _Fault, faulty: dict[str, str]) -> None:
    """Record and log a node's first fault."""
    if fault.node not in faulty:
        logging.getLogger(__name__).warning(
            "Node %s cannot do its part: %s. Another worker does it.",
            fault.node,
            fault.why,
        )
    faulty.setdefault(fault.node, fault.why)


def _no_node_left(faulty: dict[str, str]) -> str:
    reasons = "; ".join(f"node {node}: {why}" for node, why in faulty.items())
    return (
        f"No node is left that can do the rest: {reasons}. Give every machine the same "
        f"images and bundle at the same paths, then run the same command again: finished "
        f"parts are kept."
    )


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to the cluster, or start one; disconnect or stop it afterwards.

    Raises:
        UsageError: Ray is not installed, or no cluster is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent outside
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings do not matter
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "The executor `ray` needs the package `ray`, which is not installed. "
            f"Install the extra `ray`, or leave {option('executor')} out."
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
            f"--head`, give its {option('address')} and, in RAY_AUTH_TOKEN, its token; or "
            f"leave {option('address')} out."
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's own handler ends without a message
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Try once to connect, because Ray itself tries for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
