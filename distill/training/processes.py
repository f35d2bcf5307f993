"""The processes of a run: one, or several that each take a part of every batch."""

import warnings

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor

from bundle import UsageError
from distill.recipe import TrainSection
from distill.targets import Targets


def launched(section: TrainSection) -> Fabric:
    """Start the run's other processes, if it has any, and return this one's Fabric.

    On one machine they are started from here; over several machines `torchrun` starts
    one command line per process, and they find one another.

    Raises:
        UsageError: the machine has fewer GPUs than the recipe asks for.
    """
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and section.devices > torch.cuda.device_count():
        raise UsageError(
            f"The recipe asks for {section.devices} devices, this machine has "
            f"{torch.cuda.device_count()} GPUs. Lower `devices` in [train]."
        )
    several = section.devices * section.nodes > 1
    strategy: str | Strategy = DDPStrategy() if several else "auto"
    with warnings.catch_warnings():
        # It recommends `srun` and the like where they exist; the launcher is ours.
        warnings.filterwarnings("ignore", module="lightning_fabric")
        fabric = Fabric(
            accelerator=accelerator,
            devices=section.devices,
            num_nodes=section.nodes,
            strategy=strategy,
            precision=section.precision,
        )
        fabric.launch()
    if fabric.world_size != section.devices * section.nodes:
        raise UsageError(
            f"The recipe asks for {section.devices} devices on {section.nodes} nodes, "
            f"{fabric.world_size} processes were started. Make `torchrun`'s "
            f"--nproc-per-node and --nnodes agree with [train]."
        )
    return fabric


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
    rows = fabric.all_gather(row)
    assert isinstance(rows, Tensor)
    return rows.reshape(fabric.world_size, -1)


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


def require_agreement(fabric: Fabric, step: int) -> None:
    """Raise `UsageError` unless all processes continue from the same step."""
    steps = rows_of_all(fabric, torch.tensor([step], device=fabric.device)).flatten()
    if len(set(steps.tolist())) > 1:
        raise UsageError(
            f"The processes would continue from different steps, {steps.tolist()}: all "
            f"nodes must see the same checkpoint. Put --output on a folder they share."
        )
