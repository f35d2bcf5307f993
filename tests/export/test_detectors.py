"""Each detector inside an ONNX graph equals the numpy one that was fitted."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.export import Dim

from export.graph.scores import score_of
from export.graph.scores.logit import EnergyScore, GenScore, MaxLogitScore, MspScore
from export.plan import OPSET
from isogon.ood import DETECTORS, DetectorSpec, Energy, Gen, LinearProbe, MaxLogit, Msp

WIDTH, CLASSES = 16, 6


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def bank() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in overlapping classes around a common mean, as networks produce them."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 400)
    noise = generator.normal(size=(400, WIDTH)) * np.linspace(1.5, 0.1, WIDTH)
    return unit(noise + 2 * np.eye(WIDTH)[labels] + 1), labels


@pytest.fixture(scope="module")
def asked(bank: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Familiar vectors, their neighbourhood, and vectors that point anywhere."""
    generator = np.random.default_rng(1)
    near = bank[0][:100] + 0.1 * generator.normal(size=(100, WIDTH))
    return np.concatenate(
        [bank[0][:100], unit(near), unit(generator.normal(size=(100, WIDTH)))]
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_onnx_runtime_scores_as_numpy_does(
    name: str, bank: tuple[np.ndarray, np.ndarray], asked: np.ndarray, tmp_path: Path
) -> None:
    detector = DetectorSpec.model_validate({"name": name, "k": 5}).fit(*bank)
    path = tmp_path / "detector.onnx"
    program = torch.onnx.export(
        score_of(detector).eval(),
        (torch.from_numpy(asked[:2]),),
        dynamo=True,
        dynamic_shapes=({0: Dim("batch")},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    expected = detector.score(asked)
    for batch in (1, 300):
        (found,) = session.run(None, {given.name: asked[:batch]})
        assert found.dtype == np.float32
        # In units of the scores' range, as the parity gate measures; its bound is 1e-3.
        error = np.abs(found - expected[:batch]).max() / np.ptp(expected)
        assert error < 2e-5
    quant_pre_process(path, tmp_path / "prepared.onnx")  # which infers every shape
    prepared = onnx.load(tmp_path / "prepared.onnx").graph
    shaped = {value.name for value in (*prepared.value_info, *prepared.output)}
    assert shaped >= {name for node in prepared.node for name in node.output if name}


def test_residual_without_labels_is_in_the_graph_too(
    bank: tuple[np.ndarray, np.ndarray], asked: np.ndarray
) -> None:
    detector = DetectorSpec(name="residual", dim=5).fit(bank[0])
    found = score_of(detector)(torch.from_numpy(asked)).numpy()
    assert found == pytest.approx(detector.score(asked), abs=1e-5)


@pytest.mark.parametrize(
    ("module", "detector"),
    [
        (MspScore(), Msp),
        (MaxLogitScore(), MaxLogit),
        (EnergyScore(), Energy),
        (GenScore(), Gen),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_extreme_logits_are_scored_in_float32_as_in_float64(
    module: torch.nn.Module, detector: type[Msp]
) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 150)) * np.logspace(-3, 2.5, 200)[:, None]
    logits[0] = 0.0
    logits[1] = np.repeat([500.0, -500.0], 75)
    logits[2] = np.r_[np.full(149, -1000.0), 1000.0]
    logits[3] = np.r_[np.zeros(2), np.full(148, -300.0)]  # two classes share everything
    logits = logits.astype(np.float32)
    probe = LinearProbe(weight=np.eye(150), bias=np.zeros(150), classes=np.arange(150))
    expected = detector(probe=probe).score(logits.astype(np.float64))
    found = module(torch.from_numpy(logits)).numpy()
    assert np.isfinite(expected).all()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
