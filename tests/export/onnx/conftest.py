"""Float32 models to convert: the convolutional student, and a small ViT."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.graph import DeployedGraph
from export.onnx import save_onnx
from isogon.bundle import ONNX, Bundle
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood import DetectorSpec
from isogon.runtimes import OnnxRunner, Outputs, Pixels


@pytest.fixture(scope="session")
def convolutional(exported: Path) -> onnx.ModelProto:
    """The distilled `test_resnet`. Do not change it."""
    return onnx.load(Bundle.open(exported).file(ONNX))


@pytest.fixture(scope="session")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """`test_vit` with weights of which none is an initial value. Do not change it."""
    torch.manual_seed(0)
    preprocessing = preprocessing_of("test_vit", 32, 1.0)
    student = Student.new(timm_model("test_vit", size=(32, 32)), preprocessing, width=16)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    bank = np.random.default_rng(0).normal(size=(50, student.width)).astype(np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    detector = DetectorSpec(name="knn", k=5).fit(bank, np.arange(50) % 5)
    path = tmp_path_factory.mktemp("transformer") / "model.onnx"
    save_onnx(DeployedGraph(student.eval(), detector), preprocessing, path)
    return onnx.load(path)


@pytest.fixture(scope="session", params=["convolutional", "transformer"])
def model(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Each of them in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, onnx.ModelProto)
    return found


@pytest.fixture(scope="session")
def pixels(exported: Path) -> Pixels:
    """Real images, 32 pixels wide: 36 familiar and 12 unfamiliar ones."""
    arrays = Bundle.open(exported).arrays("held_out.safetensors")
    return np.concatenate([arrays["familiar"], arrays["unfamiliar"]])


@pytest.fixture
def outputs(tmp_path: Path) -> Callable[..., Outputs]:
    """The outputs of a model for pixels, in ONNX Runtime."""

    def run(model: onnx.ModelProto, pixels: Pixels, batch: int = 7) -> Outputs:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return OnnxRunner(path, threads=1).run_all(pixels, batch)

    return run


@pytest.fixture
def parsed() -> Callable[[onnx.ModelProto], list[str]]:
    """The errors of TensorRT-RTX's parser for a model; parsing needs no GPU."""
    tensorrt = pytest.importorskip("tensorrt_rtx")

    def objections(model: onnx.ModelProto) -> list[str]:
        logger = tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)  # always strongly typed
        parser = tensorrt.OnnxParser(network, logger)
        accepted = parser.parse(model.SerializeToString())
        found = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        assert accepted == (not found)
        return found

    return objections
