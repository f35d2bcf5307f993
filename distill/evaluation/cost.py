"""What one image costs the student in eager torch; `isogon export` makes it cheaper."""

import platform
import statistics
import time
from pathlib import Path

import torch

from isogon.bundle.evaluation import Cost
from isogon.images import Preprocessing
from isogon.networks import Student

_WARM_UPS = 3
_RUNS = 20
_SECONDS = 2.0  # at most, once warm


def cost_of(student: Student, preprocessing: Preprocessing, device: torch.device) -> Cost:
    """Return the bytes of the student's weights and the time of a batch of one."""
    shape = (1, preprocessing.height, preprocessing.width, 3)
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)

    def seconds() -> float:
        begun = time.perf_counter()
        with torch.inference_mode():
            student.embed(pixels).cpu()  # waits for the device
        return time.perf_counter() - begun

    for _ in range(_WARM_UPS):
        seconds()
    taken = [seconds()]
    while len(taken) < _RUNS and sum(taken) < _SECONDS:
        taken.append(seconds())
    state = student.state_dict().values()
    return Cost(
        weights_bytes=sum(value.numel() * value.element_size() for value in state),
        milliseconds=1000 * statistics.median(taken),
        machine=_machine(device),
    )


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    """Return the processor's name; its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return (names and names[0]) or platform.processor() or platform.machine() or "CPU"
