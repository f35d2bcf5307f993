"""What a runtime is: a name, the files it opens, and how it opens them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isogon.runtimes.device import ANY_DEVICE, Device
from isogon.runtimes.runner import Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class How:
    """How a file is run; a runtime passes over what does not concern it."""

    threads: int | None = None  # of one run on the CPU; None: the runtime's own choice
    device: Device = ANY_DEVICE
    graphs: bool = False  # replay CUDA graphs


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """One way to run the files with a suffix. Its module makes it; `known` lists it."""

    name: str
    suffix: str  # ".onnx"
    usual: bool  # whether it runs such a file where no other runtime is named
    open: Callable[[Path, How], Runner]
    absent: Callable[[], str | None]  # why it cannot be had here; None: it can
