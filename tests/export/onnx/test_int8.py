"""Int8: what is quantised, how, and how close it stays."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from rich.progress import Progress

from export import calibrate
from export.divergence.tensors import open_session
from export.onnx import (
    ObservedActivations,
    Target,
    float16_model,
    int8_model,
    observe,
    quantised,
)
from export.onnx.int8 import corrected_biases
from export.onnx.reading import ending
from export.parity import quantisation_pixels
from isogon.bundle import SITE_DETECTOR, Bundle
from isogon.errors import UsageError
from isogon.images.collection import SAMPLES, spread
from isogon.ood import DetectorSpec
from isogon.runtimes import Outputs, Pixels

Run = Callable[..., Outputs]
TARGETS: tuple[Target, ...] = ("onnxruntime", "tensorrt")


@pytest.fixture(scope="session")
def samples(exported: Path) -> Pixels:
    return quantisation_pixels(Bundle.open(exported))


@pytest.fixture(scope="session")
def observed(model: onnx.ModelProto, samples: Pixels) -> ObservedActivations:
    return observe(model, samples)


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def weighted(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The inside's Conv, Gemm and MatMul nodes that have weights, by name."""
    end, constants = ending(model), weights(model)
    return {
        node.name: node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and node.name not in end
        and node.input[1] in constants
    }


def reading(model: onnx.ModelProto) -> dict[str, list[str | None]]:
    """The operators that make each node's inputs; None for weights and pixels."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return {node.name: [makers.get(n) for n in node.input] for node in model.graph.node}


@pytest.mark.parametrize("target", TARGETS)
def test_weighted_nodes_read_int8_and_nothing_of_the_end_does(
    model: onnx.ModelProto, observed: ObservedActivations, target: Target
) -> None:
    result = quantised(model, observed, target=target)
    onnx.checker.check_model(result, full_check=True)
    sources, end = reading(result), ending(model)
    for name in weighted(model):
        assert sources[name][:2] == ["DequantizeLinear"] * 2
    for name in end:
        assert not {"DequantizeLinear", "QuantizeLinear"}.intersection(sources[name][1:])
    kinds = {
        output.name: output.type.tensor_type.elem_type for output in result.graph.output
    }
    assert kinds == {"embedding": TensorProto.FLOAT, "ood_score": TensorProto.FLOAT}
    assert result.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_symmetric_int8_by_output_channel(
    model: onnx.ModelProto, observed: ObservedActivations, target: Target
) -> None:
    result = quantised(model, observed, target=target)
    stored, before = weights(result), weights(model)
    makers = {name: node for node in result.graph.node for name in node.output}
    after = {node.name: node for node in result.graph.node}
    for name, node in weighted(model).items():
        dequantised = makers[after[name].input[1]]
        values, scale, zero = (stored[each] for each in dequantised.input)
        axis = dequantised.attribute[0].i
        channels = 1 if node.op_type == "MatMul" else 0
        assert axis == channels
        assert values.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == zero.shape == (before[node.input[1]].shape[axis],)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        error = values * scale.reshape(shape) - before[node.input[1]]
        assert (np.abs(error) <= 0.501 * scale.reshape(shape)).all()


def test_activations_are_as_each_runtime_wants_them(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    seen = observe(convolutional, samples)
    runtime = quantised(convolutional, seen)
    stored = weights(runtime)
    zeros = [
        stored[node.input[2]]
        for node in runtime.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert any(zero != 0 for zero in zeros)
    sources = reading(runtime)
    for node in runtime.graph.node:
        assert node.op_type != "Relu" or sources[node.name] == ["Add"]
    tensorrt = quantised(convolutional, seen, target="tensorrt")
    stored = weights(tensorrt)
    for node in tensorrt.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[node.input[2]].dtype == np.int8
            assert not stored[node.input[2]].any()
    count = Counter(node.op_type for node in convolutional.graph.node)
    assert Counter(node.op_type for node in tensorrt.graph.node)["Relu"] == count["Relu"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_int8_is_close_to_float32(
    model: onnx.ModelProto,
    observed: ObservedActivations,
    pixels: Pixels,
    outputs: Run,
    target: Target,
    batch: int,
) -> None:
    ours = outputs(quantised(model, observed, target=target), pixels, batch)
    theirs = outputs(model, pixels, batch)
    assert (ours.embeddings * theirs.embeddings).sum(axis=1).mean() > 0.99
    assert np.allclose(np.linalg.norm(ours.embeddings, axis=1), 1, atol=1e-6)
    assert (ours.embeddings != theirs.embeddings).any()


def test_entropy_is_offered_too(
    convolutional: onnx.ModelProto, samples: Pixels, pixels: Pixels, outputs: Run
) -> None:
    entropy = int8_model(convolutional, samples[:16], method="entropy")
    percentile = int8_model(convolutional, samples[:16])
    assert entropy != percentile
    ours, theirs = outputs(entropy, pixels), outputs(convolutional, pixels)
    assert (ours.embeddings * theirs.embeddings).sum(axis=1).mean() > 0.9


def test_it_is_a_third_of_the_size(
    model: onnx.ModelProto, observed: ObservedActivations
) -> None:
    assert quantised(model, observed).ByteSize() < 0.5 * model.ByteSize()


def test_what_remains_keeps_its_names_and_metadata(
    model: onnx.ModelProto, observed: ObservedActivations
) -> None:
    original = model.SerializeToString()
    for target in TARGETS:
        result = quantised(model, observed, target=target)
        after = {node.name: node for node in result.graph.node}
        gone = [node for node in model.graph.node if node.name not in after]
        assert {node.op_type for node in gone} <= {"Relu"}
        for node in model.graph.node:
            if node not in gone:
                assert after[node.name].op_type == node.op_type
                assert after[node.name].metadata_props == node.metadata_props
        new = after.keys() - {node.name for node in model.graph.node}
        assert {name.split("_")[-1] for name in new} <= {
            "QuantizeLinear",
            "DequantizeLinear",
        }
        keys = {each.key: each.value for each in result.metadata_props}
        assert all(keys[each.key] == each.value for each in model.metadata_props)
    assert model.SerializeToString() == original


@pytest.mark.parametrize("target", TARGETS)
def test_exactly_the_nodes_asked_for_stay_in_float32(
    model: onnx.ModelProto, observed: ObservedActivations, target: Target
) -> None:
    chosen = list(weighted(model))[1::3]
    result = quantised(model, observed, target=target, keep=frozenset(chosen))
    onnx.checker.check_model(result, full_check=True)
    sources = reading(result)
    by_name = {node.name: node for node in result.graph.node}
    for name, node in weighted(model).items():
        assert (sources[name][1] is None) == (name in chosen)
        if name in chosen:  # with its own weights and bias, uncorrected
            assert by_name[name].input[1:] == node.input[1:]


def test_kept_nodes_read_float32_where_there_is_any(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    """A copy of what an int8 Conv rounds has a scale per channel; see `_unround`."""
    seen = observe(convolutional, samples[:8])
    chosen = list(weighted(convolutional))[1::2]
    result = quantised(convolutional, seen, keep=frozenset(chosen))
    onnx.checker.check_model(result, full_check=True)
    makers = {name: node for node in result.graph.node for name in node.output}
    stored, by_name = weights(result), {node.name: node for node in result.graph.node}
    rounded = []
    for node in map(by_name.get, chosen):
        back = makers[node.input[0]]
        if back.op_type != "DequantizeLinear":
            continue
        rounded.append(node.name)
        scale = stored[back.input[1]]
        assert scale.shape == (stored[node.input[1]].shape[1],)
        assert (scale == scale[0]).all()
        quantiser = makers[back.input[0]]
        assert makers[quantiser.input[0]].op_type in ("Conv", "MaxPool", "AveragePool")
    assert 0 < len(rounded) < len(chosen)


def test_onnx_runtime_rounds_no_weight_of_a_kept_node(
    convolutional: onnx.ModelProto, samples: Pixels, pixels: Pixels
) -> None:
    """Its optimiser would round all those of a Conv that reads int8 with one scale."""
    seen = observe(convolutional, samples[:8])
    kept = frozenset(list(weighted(convolutional))[1::2])
    result = quantised(convolutional, seen, keep=kept)
    fused, plain = (
        open_session(result, fused=fused).run(["embedding"], {"images": pixels})[0]
        for fused in (True, False)
    )
    assert (fused * plain).sum(axis=1).min() > 0.9999


def test_a_node_that_is_not_there_cannot_be_kept(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    with pytest.raises(UsageError, match="no such node"):
        quantised(
            convolutional, observe(convolutional, samples[:1]), keep=frozenset({"nowhere"})
        )


def test_products_of_activations_stay_in_float32(
    transformer: onnx.ModelProto, samples: Pixels
) -> None:
    result = quantised(transformer, observe(transformer, samples[:8]))
    products = {
        node.name
        for node in transformer.graph.node
        if node.op_type == "MatMul" and "attention" in node.name
    }
    assert products
    for name in products:
        assert "DequantizeLinear" not in reading(result)[name]


_SCRIPT = """
import hashlib, sys
import numpy as np, onnx
from export.onnx import int8_model
model, pixels = onnx.load(sys.argv[1]), np.load(sys.argv[2])
data = int8_model(model, pixels).SerializeToString(deterministic=True)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_the_same_pixels_give_the_same_bytes_in_every_process(
    convolutional: onnx.ModelProto, samples: Pixels, tmp_path: Path
) -> None:
    onnx.save(convolutional, tmp_path / "model.onnx")
    np.save(tmp_path / "pixels.npy", samples[:12])
    command = [sys.executable, "-c", _SCRIPT]
    found = {
        subprocess.run(
            [*command, tmp_path / "model.onnx", tmp_path / "pixels.npy"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_corrected_bias_makes_up_for_rounded_weights(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    """Compared with a plain run of the first convolution with rounded weights."""
    import torch
    import torch.nn.functional as F

    seen = observe(convolutional, samples)
    corrected = corrected_biases(convolutional, seen, frozenset())
    name, node = next(iter(weighted(convolutional).items()))
    after = next(each for each in corrected.graph.node if each.name == name)
    weight, bias = (weights(convolutional)[each] for each in node.input[1:])
    new = weights(corrected)[after.input[2]]
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    rounded = (np.round(weight / scale) * scale).astype(np.float32)
    mean = np.broadcast_to(
        seen.means[node.input[0]][None, :, None, None], (1, 3, 9, 9)
    ).astype(np.float32)
    attributes = {
        each.name: onnx.helper.get_attribute_value(each) for each in node.attribute
    }
    stride = attributes["strides"][0]

    def output(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        arrays = (np.array(each) for each in (mean, weight, bias))
        made = F.conv2d(*map(torch.from_numpy, arrays), stride=stride).numpy()
        return made[0, :, 0, 0]

    expected = output(weight, bias)
    assert np.abs(output(rounded, bias) - expected).max() > 1e-3
    assert output(rounded, new) == pytest.approx(expected, abs=1e-5)


def test_means_are_those_of_the_images(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    seen = observe(convolutional, samples[:20])
    first = next(iter(weighted(convolutional).values())).input[0]
    normalised = (samples[:20] / 255 - 0.5) / 0.5  # test_resnet's mean and deviation
    assert seen.means[first] == pytest.approx(normalised.mean(axis=(0, 1, 2)), abs=1e-5)


def test_samples_are_of_the_bank_and_not_held_out(exported: Path) -> None:
    bundle = Bundle.open(exported)
    samples = quantisation_pixels(bundle)
    assert len(samples) == min(128, len(bundle.arrays("ood/reference.safetensors")["bank"]))
    assert samples.dtype == np.uint8
    held_out = {
        each.tobytes() for each in bundle.arrays("held_out.safetensors")["familiar"]
    }
    assert not held_out.intersection(each.tobytes() for each in samples)


def test_a_sites_samples_come_before_the_trainings(
    bundle: Bundle, digits: Path, progress: Progress
) -> None:
    before = quantisation_pixels(bundle)
    calibrate(bundle, digits / "3", progress, spec=DetectorSpec(name="knn", alpha=0.2))
    after = quantisation_pixels(Bundle.open(bundle.path))
    assert len(after) < len(before)


def test_the_error_of_an_older_bundle_says_what_to_do(bundle: Bundle) -> None:
    with bundle.stage("distill") as stage:
        stage.withdraw(SAMPLES)
    with pytest.raises(UsageError, match='images="FOLDER"'):
        quantisation_pixels(Bundle.open(bundle.path))


def test_samples_are_spread_evenly() -> None:
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 4).tolist() == [0, 1, 2]
    assert spread(0, 4).tolist() == []


def test_tensorrt_takes_its_own_encoding_in_float16_too(
    model: onnx.ModelProto,
    observed: ObservedActivations,
    parsed: Callable[[onnx.ModelProto], list[str]],
) -> None:
    result = quantised(model, observed, target="tensorrt")
    assert parsed(result) == []
    half = float16_model(result)
    onnx.checker.check_model(half, full_check=True)
    assert parsed(half) == []
    assert parsed(quantised(model, observed))  # which is why there are two


def test_a_site_s_samples_do_without_those_of_training(
    bundle: Bundle, samples: Pixels
) -> None:
    with bundle.stage("calibrate") as stage:
        stage.write_arrays(f"{SITE_DETECTOR}/{SAMPLES}", {"familiar": samples[:3]})
    with bundle.stage("distill") as stage:
        stage.withdraw(SAMPLES)
    older = Bundle.open(bundle.path)
    assert SAMPLES not in older
    assert np.array_equal(quantisation_pixels(older), samples[:3])
