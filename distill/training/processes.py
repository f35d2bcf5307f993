"""The processes of a run: one, or several that each compute a part of every batch."""

import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

# The variable that says how long processes wait until all have joined, and its default.
JOIN_MINUTES, _JOINING = "ISOGON_JOIN_MINUTES", 10.0
# How long a collective waits after that: another process may embed all images meanwhile.
# A process that ends is noticed at once.
_PATIENCE = timedelta(hours=2)
_INTERFACE = "GLOO_SOCKET_IFNAME"
_TO_FIRST = "ISOGON_FIRST_PROCESS"  # a socket to the process that started this one


def launched(section: TrainSection) -> Fabric:
    """Start the run's other processes, if it has any, and return this one's Fabric.

    On one machine they are started here. On several machines `torchrun` starts one command
    line per process, and they find each other.

    Raises:
        UsageError: the machine has fewer GPUs than the recipe asks for, or the processes
            do not find each other.
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


@contextmanager
def accompanied(fabric: Fabric) -> Iterator[None]:
    """Work with the other processes; raise a clear error if one of them is lost.

    Raises:
        ProcessError: another process has ended; or this process raised an error and is
            not the first of its node.
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
            raise SystemExit(0) from None  # the first of the node prints the error
        raise ProcessError(
            f"{_name_of(fabric)} has lost another process of this run, which ended or "
            f"cannot be reached: {_first_sentence(error)}. Its output, on its own host, "
            f"says why. Start all processes again to continue from the last checkpoint."
        ) from error


@contextmanager
def in_common(fabric: Fabric) -> Iterator[None]:
    """Let only the first process of a node report an error that all processes raise."""
    try:
        yield
    except UsageError:
        if fabric.local_rank:
            raise SystemExit(0) from None
        raise


def parts_of(fabric: Fabric, accumulate: int) -> tuple[int, ...]:
    """Return which parts of every global batch this process computes, in order.

    Parts are numbered by micro-batch, and within a micro-batch by process.
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
    """Return for each value whether it is true on any process."""
    answers = torch.tensor(asked, dtype=torch.float32, device=fabric.device)
    return tuple((mean_of_all(fabric, answers) > 0).tolist())


def rows_of_all(fabric: Fabric, row: Tensor) -> Tensor:
    """Return the vectors of all processes as rows."""
    if fabric.world_size == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(fabric.world_size)]
    torch.distributed.all_gather(rows, row)
    return torch.stack(rows)


def require_sound(fabric: Fabric, targets: Targets) -> None:
    """Raise an error on every process if the teacher's features are not finite on one.

    Raises:
        UsageError: some are not finite, here or on another process.
    """
    fault = targets.fault()
    anywhere = fault is not None
    if fabric.world_size > 1:
        (anywhere,) = any_of_all(fabric, anywhere)
    if anywhere:
        raise fault or UsageError(
            "The teacher gives features that are not finite; another process of this run "
            "names the image."
        )


def _fabric(
    section: TrainSection, accelerator: str, environment: ClusterEnvironment | None
) -> Fabric:
    joining = _joining()
    with warnings.catch_warnings():
        # It recommends launchers such as `srun` if they exist; we have our own.
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
            fabric.barrier()  # a process may have ended after it joined
        except (torch.distributed.DistError, RuntimeError) as error:
            if environment is None:
                raise
            minutes = joining.total_seconds() / 60
            raise UsageError(
                f"The processes of this run did not find each other at "
                f"{environment.main_address}:{environment.main_port} within {minutes:g} "
                f"minutes: {_first_sentence(error)}. One of them may have ended; its "
                f"output, on its own host, says why. Start `torchrun` on every node with "
                f"the same --nnodes and --rdzv-endpoint. If a node has several networks, "
                f"name the one they share in {_INTERFACE}. With {JOIN_MINUTES} they wait "
                f"longer."
            ) from error
    if environment is not None:
        _set_timeout(_PATIENCE)
    return fabric


def _joining() -> timedelta:
    """Return how long the processes wait for each other at the start.

    Raises:
        UsageError: the variable is not a time.
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
    """Return how the processes find each other; start this machine's if needed.

    Lightning would end the first process without a message when another one ends, so the
    processes are started here.

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
        _start(section.devices - 1)
    elif _TO_FIRST in os.environ:
        _tell_the_first()
    return LightningEnvironment()


def _start(count: int) -> None:
    """Start further processes, and wait until each is about to join.

    torch would not notice that one has ended before it joined, and wait for its timeout.

    Raises:
        ProcessError: one has ended, or does not come.
    """
    others = []
    with ExitStack() as opened:
        for rank in range(1, count + 1):
            ours, theirs = map(opened.enter_context, socket.socketpair())
            further = {"LOCAL_RANK": str(rank), _TO_FIRST: str(theirs.fileno())}
            process = subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=os.environ | further,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            others.append((rank, process, ours))
        for rank, process, ours in others:
            _await(rank, process, ours)
        for _, _, ours in others:
            ours.sendall(b"1")


def _await(rank: int, process: subprocess.Popen[bytes], ours: socket.socket) -> None:
    """Wait until a started process is about to join; raise an error if it ends."""
    patience = _joining().total_seconds()
    ours.settimeout(patience)
    try:
        came = ours.recv(1)
    except TimeoutError:
        raise ProcessError(
            f"Process {rank} of this run, {process.pid}, has not joined within "
            f"{patience / 60:g} minutes. With {JOIN_MINUTES} the others wait longer."
        ) from None
    if not came:
        status = process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise ProcessError(
            f"Process {rank} of this run ended with {how} before it joined the others. If "
            f"nothing above says why, the machine may lack memory for so many processes: "
            f"lower `devices` in [train]. Run the same command again to continue."
        )


def _tell_the_first() -> None:
    """Tell the process that started this one that it joins; end if that one has ended."""
    with socket.socket(fileno=int(os.environ.pop(_TO_FIRST))) as first:
        try:
            first.sendall(b"1")
            goes_on = first.recv(1)
        except ConnectionError:
            goes_on = b""
    if not goes_on:
        raise SystemExit(0)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _require_reachable(main_address: str) -> None:
    """Refuse an address of this host that others cannot reach: gloo would hang.

    Raises:
        UsageError: the run has several hosts, and this host's name is the loopback.
    """
    if os.environ.get(_INTERFACE) or _is_loopback(main_address):
        return
    host = socket.gethostname()
    if _is_loopback(host):
        raise UsageError(
            f"The name of this host, {host}, resolves to the loopback address, where no "
            f"other node can reach it. Set {_INTERFACE} to the network interface that the "
            f"nodes share, such as {_INTERFACE}=eth0 (`ip -brief address` lists them), or "
            f"correct /etc/hosts."
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET)
    except OSError:  # gloo uses the loopback then
        return True
    return str(found[0][4][0]).startswith("127.")


def _is_loss(error: RuntimeError) -> bool:
    """Return whether a collective failed, by gloo's message or torch's error class."""
    text = str(error).lower()
    words = "gloo", "connection closed by peer", "connection reset by peer"
    return isinstance(error, torch.distributed.DistError) or any(w in text for w in words)


def _first_sentence(error: Exception) -> str:
    """Return the first sentence of torch's error, without the place in its source."""
    line = re.sub(r"^\[/[^]]*\] ", "", str(error).strip().partition("\n")[0])
    return line.partition(". ")[0].rstrip(".") or type(error).__name__


def _name_of(fabric: Fabric) -> str:
    return f"Process {fabric.global_rank} on {socket.gethostname()}"


def _set_timeout(timeout: timedelta) -> None:
    """Set the timeout of collectives; older torch has another function for it."""
    if hasattr(distributed, "set_timeout"):
        distributed.set_timeout(timeout)
    else:
        distributed.distributed_c10d._set_pg_timeout(timeout)
