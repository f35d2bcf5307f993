"""Ray: the same parts by the same function, on the machines of a Ray cluster.

Bundle and images must lie under the same paths on every machine. The rows come back to
the machine that asked, which alone writes. Marks travel with every part, so that a copy
that is incomplete or stale is noticed. A shared loop hands out the parts, rather than Ray
Data: it lets no node have more of them that fails at one.
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

from isogon.bulk.engines.engine import Engine, Finished
from isogon.bulk.job import Job, Marks, marks_of, require_marked
from isogon.bulk.part import embed_part, model_for_job
from isogon.errors import IsogonError, UsageError
from isogon.model import Model

_STORE = 512 * 2**20  # bytes; of a cluster of our own, which holds job and parts only
_PATIENCE = 10  # seconds
_GPU_DECODERS = 8  # threads


@dataclass(frozen=True, kw_only=True, slots=True)
class RayEngine(Engine):
    """Actors of Ray, one per core, or one per GPU.

    A worker that cannot do its part (its node does not see a file, or sees another; it has
    another bundle) gets no more of them, and another worker does the part.

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
            UsageError: Ray is not installed, the cluster is not there, or it gave up; or
                no node is left that could do its part.
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
            at_work: dict[Any, tuple[Any, int]] = {}  # by the answer that is to come
            faulty: dict[str, str] = {}  # nodes, and why
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
                        _say(answer, faulty)
                        waiting.appendleft(part)
                    else:
                        resting.append(worker)
                        yield part, answer
            except ray.exceptions.RayTaskError:  # a fault of ours, with its traceback
                raise
            except ray.exceptions.RayError as error:
                raise UsageError(
                    f"Ray ended the run: {error} What is finished is kept: run the same "
                    f"command again."
                ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """Why a node could not do its part."""

    node: str
    why: str


_Answer = bytes | _Fault  # a part as a Parquet file's content


class _Actor:
    """A worker; it opens the model when its first part comes.

    Our own errors are answers: of what an actor raises Ray keeps the text alone.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: Model | None = None

    def embed(self, part: int, marks: Marks) -> _Answer:
        """Return the part, or why this node cannot do it."""
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


def _say(fault: _Fault, faulty: dict[str, str]) -> None:
    """Record a node's first fault, and print it."""
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
        f"No node is left that can do the rest: {reasons}. Let every machine see the same "
        f"images and bundle under the same paths, then run the same command again: what "
        f"is finished is kept."
    )


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
        import ray.exceptions
    except ImportError as error:
        raise UsageError(
            "The engine `ray` needs the package `ray`, which is not installed. "
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
    signal.signal(signal.SIGTERM, before)  # Ray's handler would end silently
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Try once to connect: Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
