"""Cost of CosPress's loss: the closed-form gradient compared with plain autograd.

    python benchmarks/objective_cost.py            # on the CPU, and on a GPU if any

Each variant runs forward and backward in a process of its own, at b = 32 images of
n = 257 tokens, 384 -> 192 wide (ViT-S/14 to ViT-Ti/14 at 224 pixels). Time is the median
of the runs; memory is the peak above that before the first run: resident set on the
CPU, allocated bytes on a GPU. Only ratios of one invocation are claimed.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.objectives.cospress import CosPress
from distill.objectives.sne import cosines
from isogon.networks import Features

BATCH, TOKENS, TEACHER, STUDENT = 32, 257, 384, 192
TEMPERATURES = tuple(step / 100 for step in range(1, 11))
GRID = (16, 16)


def plain_divergence(target: Tensor, learned: Tensor) -> Tensor:
    """The definition, left to autograd: ten temperatures, joint in log space."""
    n = target.shape[-2]
    diagonal = torch.eye(n, dtype=torch.bool, device=target.device)

    def log_joint(cosine: Tensor, temperature: float) -> Tensor:
        logits = (cosine / temperature).masked_fill(diagonal, -math.inf)
        conditional = F.log_softmax(logits, dim=-1)
        both = torch.logaddexp(conditional, conditional.mT)
        return both - torch.logsumexp(both.flatten(-2), dim=-1)[..., None, None]

    before, after = cosines(target), cosines(learned)
    values = []
    for temperature in TEMPERATURES:
        p, q = log_joint(before, temperature), log_joint(after, temperature)
        values.append((p.exp() * (p - q).masked_fill(diagonal, 0)).sum(dim=(-2, -1)))
    return torch.stack(values).mean(dim=0)


def plain_loss(objective: CosPress, student: Features, teacher: Features) -> Tensor:
    """Return CosPress's loss with the SNE terms by autograd."""
    z = objective.compressed(teacher)
    feature = F.cosine_similarity(student.tokens.flatten(1), z.tokens.detach().flatten(1))
    token = F.cosine_similarity(student.pooled, z.pooled.detach())
    local = plain_divergence(teacher.tokens, z.tokens).mean()
    return local + plain_divergence(teacher.pooled, z.pooled) + (2 - feature - token).mean()


def closed_loss(objective: CosPress, student: Features, teacher: Features) -> Tensor:
    """Return CosPress's loss as trained."""
    return torch.stack(list(objective(student, teacher).values())).sum()


def measure(variant: str, device: str, runs: int) -> dict[str, float]:
    """Run one variant in this process; return loss, milliseconds and peak MiB."""
    torch.manual_seed(0)
    objective = CosPress(TEACHER, STUDENT, TEMPERATURES).to(device)
    teacher = Features(tokens=torch.randn(BATCH, TOKENS, TEACHER, device=device), grid=GRID)
    tokens = torch.randn(BATCH, TOKENS, STUDENT, device=device, requires_grad=True)
    student = Features(tokens=tokens, grid=GRID)
    loss_of = plain_loss if variant == "plain" else closed_loss
    torch.randn(64, 64, device=device).matmul(torch.randn(64, 64, device=device))
    held = peak(device)
    times, loss = [], math.nan
    for _ in range(runs + 1):
        synchronise(device)
        start = time.perf_counter()
        value = loss_of(objective, student, teacher)
        value.backward()
        synchronise(device)
        times.append(time.perf_counter() - start)
        loss = value.item()
    return {
        "loss": loss,
        "milliseconds": 1000 * statistics.median(times[1:]),
        "peak_mib": peak(device) - held,
    }


def peak(device: str) -> float:
    """Return the peak so far, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_a_process(variant: str, device: str, runs: int) -> dict[str, float]:
    """Return `measure` of a fresh process, whose memory is its own."""
    command = [sys.executable, __file__, "--variant", variant, "--device", device]
    answer = subprocess.run(
        [*command, "--runs", str(runs)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(answer.stdout)
    return found


def main() -> None:
    """Print one table per device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=["plain", "closed"])
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.device, options.runs)))
        return
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in [options.device] if options.device else devices:
        name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
        threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
        print(f"\n{name or device}{threads}, torch {torch.__version__}\n")
        plain, closed = (in_a_process(v, device, options.runs) for v in ("plain", "closed"))
        print("| | plain autograd | closed form | ratio |\n|---|---|---|---|")
        print(f"| loss | {plain['loss']:.6f} | {closed['loss']:.6f} | |")
        for key, unit in (("milliseconds", "ms"), ("peak_mib", "MiB")):
            ratio = closed[key] / plain[key]
            print(f"| {unit} | {plain[key]:.0f} | {closed[key]:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
