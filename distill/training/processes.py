"""The processes of a run: one, or several that each take a part of every batch."""

import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed

from distill.recipe import TrainSection
from distill.targets import Targets
from isogon.errors import IsogonError, ProcessError, UsageError

# How long processes wait until all have joined, where the environment does not say.
JOIN_MINUTES, _JOINING = "ISOGON_JOIN_MINUTES", 10.0

# Afterwards: what the others wait for may be a pass over all images. A process that ends is
# noticed at once.
_PATIENCE = timedelta(hours=2)
_INTERFACE = "GLOO_SOCKET_IFNAME"


def launched(section: TrainSection) -> Fabric:
    """Start the run's other processes, if it has any, and return this one's Fabric.

    On one machine they are started from here; over several machines `torchrun` starts
    one command line per process, and they find one another.

    Raises:
        UsageError: the machine has fewer GPUs than the recipe asks for, or the processes
            do not find one another.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and section.devices > torch.cuda.device_count():
        raise UsageError(
            f"The recipe asks for {section.devices} devices, this machine has "
            f"{torch.cuda.device_count()} GPUs. Lower `devices` in [train]."
        )
    if section.devices * section.nodes == 1:
        fabric = _fabric(section, accelerator, None)
    else:
        environment = _environment(section)
        if accelerator == "cpu":
            _require_reachable(environment.main_address)
        fabric = _fabric(section, accelerator, environment)
    if fabric.world_size != section.devices * section.nodes:
        raise UsageError(
            f"The recipe asks for {section.devices} devices on {section.nodes} nodes, "
            f"{fabric.world_size} processes were started. Make `torchrun`'s "
            f"--nproc-per-node and --nnodes agree with [train]."
        )
    return fabric


def _fabric(
    section: TrainSection, accelerator: str, environment: ClusterEnvironment | None
) -> Fabric:
    joining = _joining()
    with warnings.catch_warnings():
        # It recommends `srun` and the like where they exist; the launcher is ours.
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(
            accelerator=accelerator,
            devices=section.devices,
            num_nodes=section.nodes,
            strategy="auto" if environment is None else DDPStrategy(timeout=joining),
            plugins=environment,
            precision=section.precision,
        )
        try:
            fabric.launch()
            fabric.barrier()  # what joined may have died since
        except (torch.distributed.DistError, RuntimeError) as error:
            if environment is None:
                raise
            minutes = joining.total_seconds() / 60
            raise UsageError(
                f"The processes of this run do not find one another at "
                f"{environment.main_address}:{environment.main_port} within {minutes:g} "
                f"minutes: {_first_sentence(error)}. One of them may have ended before; "
                f"what it said, on its own host, tells why. Start `torchrun` on every "
                f"node with the same --nnodes and --rdzv-endpoint; where a node has "
                f"several networks, name the one they share in {_INTERFACE}. "
                f"{JOIN_MINUTES} lets slow ones take longer."
            ) from error
    if environment is not None:
        _set_timeout(_PATIENCE)
    return fabric


def _joining() -> timedelta:
    """Return how long the processes wait for one another at the start.

    Raises:
        UsageError: the environment says something else than a time.
    """
    said = os.environ.get(JOIN_MINUTES, str(_JOINING))
    try:
        minutes = float(said)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise UsageError(f"Expected {JOIN_MINUTES} as minutes, such as 30, got {said!r}.")
    return timedelta(minutes=minutes)


def _environment(section: TrainSection) -> ClusterEnvironment:
    """Return how the processes find one another; start this machine's if needed.

    Lightning would end the first process silently when another one ends: so they
    are started here.

    Raises:
        UsageError: several machines without `torchrun`.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if section.nodes > 1:
        raise UsageError(
            f"The recipe asks for {section.nodes} nodes: start `torchrun --nnodes "
            f"{section.nodes} --nproc-per-node {section.devices} --rdzv-backend c10d "
            f"--rdzv-endpoint HOST:PORT -m isogon distill …` on each of them, or lower "
            f"`nodes` in [train]."
        )
    if "LOCAL_RANK" not in os.environ:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(section.devices),
            "LOCAL_RANK": "0",
        }
        for rank in range(1, section.devices):
            subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=os.environ | {"LOCAL_RANK": str(rank)},
            )
    return LightningEnvironment()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _require_reachable(main_address: str) -> None:
    """Refuse an address of this host that others cannot reach: gloo would hang.

    Raises:
        UsageError: the run spans hosts, and this one's name means the loopback.
    """
    if os.environ.get(_INTERFACE) or _is_loopback(main_address):
        return
    host = socket.gethostname()
    if _is_loopback(host):
        raise UsageError(
            f"The name of this host, {host}, resolves to the loopback address, where no "
            f"other node can reach it. Set {_INTERFACE} to the network interface that the "
            f"nodes share, such as {_INTERFACE}=eth0 (`ip -brief address` lists them), or "
            f"mend /etc/hosts."
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET)
    except OSError:  # as gloo, which takes the loopback then
        return True
    return str(found[0][4][0]).startswith("127.")


@contextmanager
def accompanied(fabric: Fabric) -> Iterator[None]:
    """Work with the other processes; say so when one of them is lost.

    Raises:
        ProcessError: another process has ended, or this one, not the first of its node,
            raised an error of its own.
    """
    try:
        yield
    except IsogonError as error:
        if fabric.local_rank == 0:
            raise
        raise ProcessError(f"{_name_of(fabric)}: {error}") from error
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_loss(error):
            raise
        if fabric.local_rank:
            raise SystemExit(0) from None  # the first of the node speaks
        raise ProcessError(
            f"{_name_of(fabric)} has lost another process of this run, which ended or "
            f"cannot be reached: {_first_sentence(error)}. What that one said, on its own "
            f"host, tells why. Start all processes again to continue from the last "
            f"checkpoint."
        ) from error


@contextmanager
def in_common(fabric: Fabric) -> Iterator[None]:
    """Print an error that all processes raise once per node."""
    try:
        yield
    except UsageError:
        if fabric.local_rank:
            raise SystemExit(0) from None
        raise


def _is_loss(error: RuntimeError) -> bool:
    """Return whether a collective failed, by gloo's words or by torch's classes."""
    text = str(error).lower()
    words = "gloo", "connection closed by peer", "connection reset by peer"
    return isinstance(error, torch.distributed.DistError) or any(w in text for w in words)


def _first_sentence(error: Exception) -> str:
    """Return what an error of torch's says first, without the place in its source."""
    line = re.sub(r"^\[/[^]]*\] ", "", str(error).strip().partition("\n")[0])
    return line.partition(". ")[0].rstrip(".") or type(error).__name__


def _name_of(fabric: Fabric) -> str:
    return f"Process {fabric.global_rank} on {socket.gethostname()}"


def parts_of(fabric: Fabric, accumulate: int) -> tuple[int, ...]:
    """Return which parts of every global batch this process takes, in order.

    The parts are numbered micro-batch by micro-batch, and within one by process.
    """
    return tuple(
        micro_batch * fabric.world_size + fabric.global_rank
        for micro_batch in range(accumulate)
    )


def mean_of_all(fabric: Fabric, values: Tensor) -> Tensor:
    """Return the mean over the processes."""
    mean = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean


def any_of_all(fabric: Fabric, *asked: bool) -> tuple[bool, ...]:
    """Return, for each question, whether any process says yes."""
    answers = torch.tensor(asked, dtype=torch.float32, device=fabric.device)
    return tuple((mean_of_all(fabric, answers) > 0).tolist())


def rows_of_all(fabric: Fabric, row: Tensor) -> Tensor:
    """Return the processes' vectors as rows."""
    if fabric.world_size == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, row)
    return torch.stack(rows)


def require_sound(fabric: Fabric, targets: Targets) -> None:
    """Raise what is wrong with the teacher's features, on every process.

    Raises:
        UsageError: some are not finite, here or on another process.
    """
    fault = targets.fault()
    anywhere = fault is not None
    if fabric.world_size > 1:
        (anywhere,) = any_of_all(fabric, anywhere)
    if anywhere:
        raise fault or UsageError(
            "The teacher gives features that are not finite; the process of this run "
            "that met them names the image."
        )


def _set_timeout(timeout: timedelta) -> None:
    """Let collectives wait for so long; older torch calls it otherwise."""
    if hasattr(distributed, "set_timeout"):
        distributed.set_timeout(timeout)
    else:
        distributed.distributed_c10d._set_pg_timeout(timeout)
