"""Small students as ONNX graphs, and changes that break them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.graph import DeployedGraph
from export.onnx import save_onnx
from export.onnx.reading import module_of
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood import DetectorSpec
from isogon.runtimes import Pixels

SIZE = 64

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A small vision transformer with its detector, in float32."""
    return exported_graph(small_graph("test_vit"), tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A small convolutional student."""
    return exported_graph(small_graph("test_resnet"), tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """Five images whose parts differ in brightness, so that embeddings differ."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)


@pytest.fixture(scope="session")
def node_of() -> Callable[[onnx.ModelProto, str, str], str]:
    """The name of a module's only node of some type."""

    def named(model: onnx.ModelProto, module: str, op_type: str) -> str:
        (name,) = (
            node.name
            for node in model.graph.node
            if module_of(node) == module and node.op_type == op_type
        )
        return name

    return named


@pytest.fixture(scope="session")
def changed() -> Callable[[onnx.ModelProto, str, Change], onnx.ModelProto]:
    """A copy of a model in which the weights of one node are changed."""

    def change(model: onnx.ModelProto, node: str, plant: Change) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        (reader,) = (n for n in copy.graph.node if n.name == node)
        (weight,) = (i for i in copy.graph.initializer if i.name == reader.input[1])
        array = plant(numpy_helper.to_array(weight)).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return copy

    return change


@pytest.fixture
def torch_vit() -> DeployedGraph:
    """The vision transformer in torch, to be changed."""
    return small_graph("test_vit")


def small_graph(name: str) -> DeployedGraph:
    """Return an untrained student with its detector, the same each time."""
    import torch

    torch.manual_seed(0)
    preprocessing = preprocessing_of(name, SIZE, 1.0)
    model = timm_model(name, size=(SIZE, SIZE))
    student = Student.new(model, preprocessing, width=32)
    _settle_norms(student)
    bank = np.random.default_rng(0).normal(size=(100, 32))
    bank = (bank / np.linalg.norm(bank, axis=1, keepdims=True)).astype(np.float32)
    return DeployedGraph(student, DetectorSpec(name="knn", k=5).fit(bank, None))


def exported_graph(graph: DeployedGraph, folder: Path) -> onnx.ModelProto:
    """Return the graph as ONNX."""
    path = folder / "model.onnx"
    save_onnx(graph, preprocessing_of("test_vit", SIZE, 1.0), path)
    return onnx.load(path)


@pytest.fixture
def as_onnx(tmp_path: Path) -> Callable[[DeployedGraph], onnx.ModelProto]:
    """Export a graph."""
    return lambda graph: exported_graph(graph, tmp_path)


def _settle_norms(student: Student) -> None:
    """Give batch norms the statistics of some images, and gains that are not 0.

    Without, signals die in depth, and blocks that begin as identities add nothing.
    """
    import torch

    norms = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    images = torch.randint(0, 256, (16, SIZE, SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        student.train().embed(images)
    student.eval()
