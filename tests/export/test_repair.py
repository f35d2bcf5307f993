"""Repair finds the few nodes that a precision breaks, and keeps no others in float32."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from rich.progress import Progress

from export.divergence import StoredRunner, first_divergence
from export.onnx import Target, float16_model, observe, quantised
from export.onnx.reading import module_of
from export.repair import repaired, sensitivities
from isogon.errors import CheckFailedError
from isogon.runtimes import Pixels

Changed = Callable[
    [onnx.ModelProto, str, Callable[[np.ndarray], np.ndarray]], onnx.ModelProto
]
Named = Callable[[onnx.ModelProto, str, str], str]

BLOCK = "student.backbone.model.layer2.0"


def embeddings(model: onnx.ModelProto, pixels: Pixels) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["embedding"], {"images": pixels})[0]


class Gate:
    """The cosine gate, which counts how often it is asked."""

    def __init__(
        self, reference: onnx.ModelProto, pixels: Pixels, min_cosine: float
    ) -> None:
        self._expected = embeddings(reference, pixels)
        self._pixels = pixels
        self._min_cosine = min_cosine
        self.asked = 0

    def __call__(self, model: onnx.ModelProto) -> bool:
        self.asked += 1
        found = embeddings(model, self._pixels)
        return bool((self._expected * found).sum(axis=1).min() >= self._min_cosine)


class Float16Gate(Gate):
    """The same gate on a graph whose stored tensors are rounded."""

    def __call__(self, model: onnx.ModelProto) -> bool:
        self.asked += 1
        found = StoredRunner(model).run(self._pixels).embeddings
        return bool((self._expected * found).sum(axis=1).min() >= self._min_cosine)


class NoisyWeights:
    """A converter that rounds nothing, but breaks the weights of nodes that are not kept."""

    def __init__(self, model: onnx.ModelProto, noise: dict[str, float]) -> None:
        self._model = model
        self._noise = noise
        self.conversions: list[frozenset[str]] = []

    def __call__(self, keep: frozenset[str]) -> onnx.ModelProto:
        self.conversions.append(keep)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._model)
        weights = {weight.name: weight for weight in copy.graph.initializer}
        for node in copy.graph.node:
            if node.name in self._noise and node.name not in keep:
                weight = weights[node.input[1]]
                array = numpy_helper.to_array(weight)
                noise = np.random.default_rng(0).normal(size=array.shape) * array.std()
                array = (array + self._noise[node.name] * noise).astype(np.float32)
                weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return copy


def multiplications(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that multiply by weights, in graph order."""
    weights = {weight.name for weight in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Conv")
        and node.input[1] in weights
        and module_of(node) != "score"
    ]


@pytest.mark.parametrize(
    "architecture", [pytest.param("vit", marks=pytest.mark.slow), "resnet"]
)
def test_the_culprits_are_kept_and_nothing_else(
    architecture: str, request: pytest.FixtureRequest, pixels: Pixels, progress: Progress
) -> None:
    model: onnx.ModelProto = request.getfixturevalue(architecture)
    nodes = multiplications(model)
    culprits = frozenset((nodes[1], nodes[5], nodes[-1]))
    noise = {name: 1.0 if name in culprits else 1e-3 for name in nodes}
    convert = NoisyWeights(model, noise)
    gate = Gate(model, pixels, 0.9999)
    found = repaired(convert, gate, model, pixels, progress=progress)
    assert found
    assert found.keep == culprits
    assert found.converted == len(nodes)
    assert [turn.harmful for turn in found.rounds] == [0, 1, 2, 4, 3]
    assert [turn.accepted for turn in found.rounds] == [False, False, False, True, True]
    assert gate.asked == len(convert.conversions) == 5
    assert gate(found.model)
    assert not gate(found.unrepaired)
    assert found.size_cost == 1
    again = repaired(convert, gate, model, pixels, progress=progress)
    assert again.keep == found.keep
    assert again.model.SerializeToString() == found.model.SerializeToString()


def test_what_passes_is_left_alone(
    vit: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    convert = NoisyWeights(vit, {})
    found = repaired(convert, Gate(vit, pixels, 0.9999), vit, pixels, progress=progress)
    assert found
    assert found.keep == frozenset()
    assert convert.conversions == [frozenset()]
    assert found.model.SerializeToString() == vit.SerializeToString()


def test_a_precision_that_does_not_suit_the_model_is_given_up(
    vit: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    nodes = multiplications(vit)
    convert = NoisyWeights(vit, dict.fromkeys(nodes, 1.0))
    gate = Gate(vit, pixels, 0.999)
    found = repaired(convert, gate, vit, pixels, progress=progress)
    assert not found
    assert 0 < found.kept_work <= 0.5
    assert "does not suit this model" in found.reason
    few = repaired(convert, gate, vit, pixels, progress=progress, rounds=3)
    assert not few
    assert [turn.harmful for turn in few.rounds] == [0, 1, 2]
    assert "after 3 tries" in few.reason


def test_a_model_that_breaks_everywhere_is_given_up_at_once(
    vit: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    convert = NoisyWeights(vit, dict.fromkeys(multiplications(vit), float("nan")))
    gate = Gate(vit, pixels, 0.999)
    found = repaired(convert, gate, vit, pixels, progress=progress)
    assert not found
    assert gate.asked == 1
    assert "are not finite" in found.reason


def test_nodes_of_other_names_cannot_be_repaired(
    vit: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    def renamed(keep: frozenset[str]) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(vit)
        for node in copy.graph.node:
            node.name = f"renamed_{node.name}"
        return copy

    with pytest.raises(CheckFailedError, match="no node can be kept"):
        repaired(renamed, lambda _: False, vit, pixels, progress=progress)


def test_the_effect_of_a_node_is_that_of_converting_it_alone(
    vit: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    ranking = sensitivities(vit, float16_model(vit), pixels, progress)
    everything = frozenset(node.name for node in ranking)
    for node in ranking[:3]:
        alone = float16_model(vit, keep=everything - {node.name})
        found = first_divergence(vit, alone, pixels)
        outputs = [n.error for n in found.nodes if n.name in ("node_div_2", "node_sub_1")]
        assert node.effect == pytest.approx(max(outputs), rel=0.2)
    effects = [node.effect for node in ranking if node.effect is not None]
    assert effects == sorted(effects, reverse=True)
    assert len(effects) == 96 < len(ranking)


@pytest.fixture
def overflowing(
    resnet: onnx.ModelProto, changed: Changed, node_of: Named
) -> onnx.ModelProto:
    """The same function, but one convolution's output is 32768 times as large."""
    large, small = (node_of(resnet, f"{BLOCK}.conv{i}", "Conv") for i in (1, 2))
    model = changed(resnet, large, lambda weights: weights * 2.0**15)
    (bias,) = (n.input[2] for n in model.graph.node if n.name == large)
    (array,) = (i for i in model.graph.initializer if i.name == bias)
    array.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(array) * 2.0**15, bias))
    return changed(model, small, lambda weights: weights / 2.0**15)


def test_an_overflow_that_the_cpu_hides_is_found(
    overflowing: onnx.ModelProto, pixels: Pixels
) -> None:
    """The CPU's kernels keep the tensor in float32; a GPU's do not."""
    half = float16_model(overflowing)
    assert Gate(overflowing, pixels, 0.999)(half)
    assert not Float16Gate(overflowing, pixels, 0.999)(half)
    found = first_divergence(overflowing, half, pixels)
    assert found.first is not None
    assert np.isinf(found.first.error)
    assert found.first.module.startswith(BLOCK)
    assert "hides it on this CPU" in str(found)


def test_what_is_stored_without_overflow_gives_what_the_cpu_gives(
    resnet: onnx.ModelProto, pixels: Pixels
) -> None:
    half = float16_model(resnet)
    stored = StoredRunner(half).run(pixels)
    assert (embeddings(half, pixels) * stored.embeddings).sum(axis=1).min() > 0.99999
    assert stored.ood_scores.shape == (5,)


def test_an_activation_too_large_for_float16_stays_in_float32(
    overflowing: onnx.ModelProto, pixels: Pixels, progress: Progress
) -> None:
    found = repaired(
        lambda keep: float16_model(overflowing, keep=keep),
        Float16Gate(overflowing, pixels, 0.9999),
        overflowing,
        pixels,
        progress=progress,
    )
    assert found
    parts = {node.module.removeprefix(f"{BLOCK}.") for node in found.harmful}
    assert parts <= {"conv1", "act1", "conv2"}
    assert 1 < len(found.keep) <= 3
    assert all(node.breaks for node in found.harmful)
    assert 1 < found.size_cost < 1.3


def test_an_overflow_in_an_attention_block_is_kept_out_of_float16(
    vit: onnx.ModelProto,
    pixels: Pixels,
    progress: Progress,
    changed: Changed,
    node_of: Named,
) -> None:
    attention = "student.backbone.model.blocks.3.attn"
    qkv, projection = (
        node_of(vit, f"{attention}.{part}", "MatMul") for part in ("qkv", "proj")
    )
    model = changed(vit, qkv, lambda w: w * np.repeat([1.0, 1.0, 2.0**22], len(w)))
    model = changed(model, projection, lambda weights: weights / 2.0**22)
    found = repaired(
        lambda keep: float16_model(model, keep=keep),
        Float16Gate(vit, pixels, 0.9999),
        model,
        pixels,
        progress=progress,
    )
    assert found
    assert len(found.rounds) <= 8
    assert 5 < len(found.keep) <= 14
    assert {node.module.removeprefix(attention) for node in found.harmful} <= {
        "",
        ".qkv",
        ".proj",
    }


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_layer_that_int8_cannot_hold_stays_in_float32(
    resnet: onnx.ModelProto,
    pixels: Pixels,
    progress: Progress,
    changed: Changed,
    node_of: Named,
    target: Target,
) -> None:
    """One channel is a thousand times as large, so the others round to nothing."""
    large, small = (node_of(resnet, f"{BLOCK}.conv{i}", "Conv") for i in (1, 2))
    model = changed(resnet, large, lambda w: np.concatenate([1e3 * w[:1], w[1:]]))
    model = changed(
        model, small, lambda w: np.concatenate([1e-3 * w[:, :1], w[:, 1:]], axis=1)
    )
    (bias,) = (n.input[2] for n in model.graph.node if n.name == large)
    (array,) = (i for i in model.graph.initializer if i.name == bias)
    values = numpy_helper.to_array(array).copy()
    values[0] *= 1e3
    array.CopyFrom(numpy_helper.from_array(values, bias))
    gate = Gate(resnet, pixels, 0.99)
    assert gate(model)
    assert gate(quantised(resnet, observe(resnet, pixels), target=target))
    observed = observe(model, pixels)
    found = repaired(
        lambda keep: quantised(model, observed, target=target, keep=keep),
        gate,
        model,
        pixels,
        progress=progress,
    )
    assert [turn.accepted for turn in found.rounds] == [False, True]
    assert [node.name for node in found.harmful] == [small]
    # For ONNX Runtime the tensor is rounded for its maker's sake, so that is kept too.
    assert found.keep == ({large, small} if target == "onnxruntime" else {small})
    assert gate(found.model)
    assert 1 < found.size_cost < 1.25
