"""The search of a large bank in two steps gives the scores of the plain one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.utils import Extractor

from export.divergence import first_divergence
from export.graph import DeployedGraph
from export.onnx import (
    CoarseBank,
    coarse_bank,
    float16_model,
    int8_model,
    reranked,
    save_onnx,
)
from export.onnx.reading import module_of, precision_of
from export.onnx.search import BLOCK, SMALLEST, SPARE, Bits
from isogon.networks import Student, preprocessing_of, timm_model
from isogon.ood import Detector, Knn, LinearProbe, NnGuide
from isogon.runtimes import Pixels

SIZE, WIDTH = 32, 128
VECTORS = SMALLEST // WIDTH
CLASSES = 100


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the directions of vectors."""
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found.astype(np.float32)


def clustered(count: int, seed: int, spread: float = 0.5, centres: int = 0) -> np.ndarray:
    """Return directions around class centres; `centres` has the class of each."""
    middles = unit(np.random.default_rng(centres).normal(size=(CLASSES, WIDTH)))
    generator = np.random.default_rng(seed)
    away = generator.normal(size=(count, WIDTH)) * spread / np.sqrt(WIDTH)
    return unit(middles[generator.integers(0, CLASSES, count)] + away)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Detector], Path]:
    """Write an untrained student with a detector."""

    def export(detector: Detector) -> Path:
        import torch

        torch.manual_seed(0)
        preprocessing = preprocessing_of("test_resnet", SIZE, 1.0)
        model = timm_model("test_resnet", size=(SIZE, SIZE))
        graph = DeployedGraph(Student.new(model, preprocessing, width=WIDTH), detector)
        path = tmp_path_factory.mktemp("large") / "model.onnx"
        save_onnx(graph, preprocessing, path)
        return path

    return export


@pytest.fixture(scope="module")
def bank() -> np.ndarray:
    """Embeddings like those of a trained student, just enough for the search in two steps."""
    return clustered(VECTORS, seed=1)


@pytest.fixture(scope="module")
def plain(written: Callable[[Detector], Path], bank: np.ndarray) -> onnx.ModelProto:
    """A graph with a large bank, in float32."""
    return onnx.load(written(Knn(bank=bank, k=1)))


def quick_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with the search in two steps, as its file has it."""
    return reranked(model, coarse_bank(model))


def with_neighbours(model: onnx.ModelProto, k: int) -> onnx.ModelProto:
    """Return the graph with another k."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (top,) = (node for node in changed.graph.node if node.op_type == "TopK")
    top.input[1] = "k"
    changed.graph.initializer.append(numpy_helper.from_array(np.array([k]), "k"))
    (last,) = (node for node in changed.graph.node if top.output[0] in node.input)
    last.input[1] = "last"
    changed.graph.initializer.append(numpy_helper.from_array(np.array(k - 1), "last"))
    del changed.graph.value_info[:]  # shapes of the other k
    return changed


def with_array(model: onnx.ModelProto, name: str, array: np.ndarray) -> onnx.ModelProto:
    """Return the graph with another weight of that name."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (weight,) = (weight for weight in changed.graph.initializer if weight.name == name)
    weight.CopyFrom(numpy_helper.from_array(array, name))
    return changed


def bank_of(model: onnx.ModelProto) -> str:
    """Return the name of the weight that holds the bank of a plain graph."""
    (product,) = (
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and module_of(node) == "score"
    )
    return str(product.input[1])


def scores(model: onnx.ModelProto, embeddings: np.ndarray) -> np.ndarray:
    """Return the scores that the last part of a graph computes for embeddings."""
    end = Extractor(model).extract_model(["embedding"], ["ood_score"])
    session = onnxruntime.InferenceSession(
        end.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"embedding": embeddings})
    return np.asarray(found)


def kinds(count: int) -> dict[str, np.ndarray]:
    """Return embeddings near the bank, and of four kinds far from it."""
    generator = np.random.default_rng(3)
    spikes = generator.normal(size=(count, WIDTH)) * 0.03
    spikes[np.arange(count), generator.integers(0, WIDTH, count)] += 1
    return {
        "familiar": clustered(count, seed=2),
        "unfamiliar": clustered(count, seed=2, centres=5),
        "random": unit(generator.normal(size=(count, WIDTH))),
        "one large component": unit(spikes),
        "no direction": np.zeros((count, WIDTH), np.float32),
    }


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("k", [1, 10])
def test_scores_are_those_of_the_plain_search(
    plain: onnx.ModelProto, k: int, batch: int
) -> None:
    searching = with_neighbours(plain, k)
    quick = quick_of(searching)
    assert quick is not searching
    for kind, embeddings in kinds(8 * batch).items():
        for some in np.split(embeddings, len(embeddings) // batch):
            error = np.abs(scores(quick, some) - scores(searching, some)).max()
            assert error <= 1e-6, kind


@pytest.mark.slow
def test_nnguide_searches_so_too(
    written: Callable[[Detector], Path], bank: np.ndarray
) -> None:
    generator = np.random.default_rng(4)
    probe = LinearProbe(
        weight=generator.normal(size=(10, WIDTH)).astype(np.float32),
        bias=np.zeros(10, np.float32),
        classes=np.arange(10),
    )
    model = onnx.load(written(NnGuide.fit(bank, probe, k=10)))
    quick = quick_of(model)
    assert quick is not model
    for embeddings in kinds(7).values():
        expected = scores(model, embeddings)
        assert np.allclose(scores(quick, embeddings), expected, rtol=1e-6, atol=1e-6)


def test_nan_stays_nan(plain: onnx.ModelProto) -> None:
    broken = np.full((2, WIDTH), np.nan, np.float32)
    assert np.isnan(scores(quick_of(plain), broken)).all()


def with_spread(model: onnx.ModelProto, spread: float) -> onnx.ModelProto:
    """Return the graph with a bank of wider or narrower classes."""
    return with_array(model, bank_of(model), clustered(VECTORS, seed=1, spread=spread).T)


@pytest.mark.parametrize(("spread", "bits"), [(0.5, 4), (0.2, 8), (0.05, None)])
def test_the_narrower_the_classes_the_more_bits_they_take(
    plain: onnx.ModelProto, spread: float, bits: int | None
) -> None:
    model = with_spread(plain, spread)
    coarse = coarse_bank(model)
    assert (coarse and coarse.bits) == bits
    assert (reranked(model, coarse) is model) == (bits is None)


@pytest.mark.parametrize(("spread", "bits"), [(0.5, 4), (0.2, 8)])
def test_onnx_runtime_multiplies_in_few_bits(
    plain: onnx.ModelProto, tmp_path: Path, spread: float, bits: int
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # that the file holds what suits this machine
    quick = quick_of(with_spread(plain, spread))
    onnxruntime.InferenceSession(
        quick.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    (held,) = [node for node in optimised.node if node.op_type == "MatMulNBits"]
    assert onnx.helper.get_node_attr_value(held, "bits") == bits
    assert not [node for node in optimised.node if node.op_type == "DequantizeLinear"]


@pytest.mark.parametrize(
    ("spread", "share"), [(0.5, 1 / 8 + 1 / 64), (0.2, 1 / 4 + 1 / 64)]
)
def test_the_file_grows_by_a_share_of_the_bank(
    plain: onnx.ModelProto, bank: np.ndarray, spread: float, share: float
) -> None:
    model = with_spread(plain, spread)
    before = model.SerializeToString()
    quick = quick_of(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(quick, full_check=True)
    assert bank_of(model) not in {weight.name for weight in quick.graph.initializer}
    grown = quick.ByteSize() - model.ByteSize()
    assert grown == pytest.approx(bank.nbytes * share, rel=0.05)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [64, 100, 128])
def test_codes_stand_for_their_vectors(width: int, bits: Bits) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)
    vectors[0] = 0
    error = np.abs(CoarseBank.of(vectors, bits).vectors() - vectors)
    for start in range(0, width, BLOCK):
        block = slice(start, start + BLOCK)
        step = np.abs(vectors[:, block]).max(axis=1) / 2 ** (bits - 1)
        assert (error[:, block] <= 1.001 * step[:, None]).all()  # half, but for the highest
        assert np.median(error[1:, block] / step[1:, None]) < 0.3


def test_what_would_gain_nothing_is_left_alone(
    plain: onnx.ModelProto, resnet: onnx.ModelProto, bank: np.ndarray
) -> None:
    assert quick_of(resnet) is resnet
    few = with_array(plain, bank_of(plain), bank[:-1].T)
    assert quick_of(few) is few
    narrow = with_array(plain, bank_of(plain), bank.reshape(-1, 32).T)
    assert quick_of(narrow) is narrow
    many = with_neighbours(plain, VECTORS - SPARE + 1)
    assert quick_of(many) is many


def test_embeddings_that_share_a_direction_are_distinguished(
    plain: onnx.ModelProto, bank: np.ndarray
) -> None:
    """Like those of a hardly trained student; few bits alone would not be enough."""
    shared = 10 * np.ones(WIDTH, np.float32) / np.sqrt(WIDTH)
    model = with_array(plain, bank_of(plain), unit(bank + shared).T)
    quick = quick_of(model)
    assert quick is not model
    for embeddings in kinds(50).values():
        some = unit(embeddings + shared)
        assert np.abs(scores(quick, some) - scores(model, some)).max() <= 1e-6


def test_doing_it_again_changes_nothing(plain: onnx.ModelProto) -> None:
    quick = quick_of(plain)
    assert quick_of(quick) is quick


def test_a_search_whose_places_are_read_is_left_alone(plain: onnx.ModelProto) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    (top,) = (node for node in model.graph.node if node.op_type == "TopK")
    places = onnx.helper.make_tensor_value_info(
        top.output[1], onnx.TensorProto.INT64, ["batch", 1]
    )
    model.graph.output.append(places)
    assert quick_of(model) is model


@pytest.mark.slow
def test_every_precision_keeps_its_name_and_diverges_nowhere(
    plain: onnx.ModelProto, pixels: Pixels
) -> None:
    converted = {
        "fp32": plain,
        "fp16": float16_model(plain),
        "int8": int8_model(plain, np.concatenate([pixels, pixels[:, ::-1]])),
    }
    for precision, model in converted.items():
        quick = quick_of(model)
        assert quick is not model
        assert precision_of(quick) == precision
        found = first_divergence(plain, quick, pixels, bound=1.0)
        assert found.candidate == precision
        assert found.first is None
        compared = {node.op_type for node in found.nodes if node.module == "score"}
        assert "TopK" in compared
        assert "MatMul" not in compared  # the product with the bank is no more
    beside = first_divergence(plain, quick_of(plain), pixels)
    assert beside.first is None
    assert not beside.only_when_fused
