"""Fine-tuning of int8: it simulates what ONNX Runtime computes, and it helps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.finetuning import finetuned
from export.finetuning.network import QuantisedNetwork
from export.finetuning.operators import OPERATORS
from export.onnx import ObservedActivations, Target, observe, quantised
from export.onnx.int8 import corrected_biases, unquantised
from export.parity import quantisation_pixels
from isogon.bundle import Bundle
from isogon.errors import UsageError
from isogon.runtimes import Outputs, Pixels

Run = Callable[..., Outputs]


@pytest.fixture(scope="module")
def samples(exported: Any) -> Pixels:
    return quantisation_pixels(Bundle.open(exported))


@pytest.fixture(scope="module")
def observed(model: onnx.ModelProto, samples: Pixels) -> ObservedActivations:
    return observe(model, samples[:64])


def corrected(model: onnx.ModelProto, observed: ObservedActivations) -> onnx.ModelProto:
    return corrected_biases(model, observed, unquantised(model, frozenset()))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_every_quantised_tensor_is_within_one_step_of_onnx_runtime_s(
    model: onnx.ModelProto, observed: ObservedActivations, pixels: Pixels, target: Target
) -> None:
    """Each node reads ONNX Runtime's numbers, so that one step does not become many."""
    base = corrected(model, observed)
    graph = quantised(base, observed, target=target, correct=False)
    kind = TensorProto.INT8 if target == "tensorrt" else TensorProto.UINT8
    names = [n.output[0] for n in graph.graph.node if n.op_type == "QuantizeLinear"]
    graph.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name in names
    )
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    theirs = dict(zip(names, session.run(names, {"images": pixels[:8]}), strict=True))
    given = {name: torch.from_numpy(value).float() for name, value in theirs.items()}
    with torch.no_grad():
        network = QuantisedNetwork(graph, base)
        ours = network.tensors(torch.from_numpy(pixels[:8]), names, given)
    assert len(ours) > 10
    steps = {name: (value - given[name]).abs() for name, value in ours.items()}
    assert max(each.max() for each in steps.values()) <= 1
    shares = torch.stack([(each > 0).float().mean() for each in steps.values()])
    assert shares.median() < 0.001  # more behind poolings, whose sums of integers tie


def test_what_is_written_is_what_was_trained(
    model: onnx.ModelProto, observed: ObservedActivations, samples: Pixels
) -> None:
    tuned = finetuned(model, observed, samples[:16], steps=3)
    written = quantised(tuned, observed, correct=False)
    network = QuantisedNetwork(written, tuned)
    weights = {w.name: numpy_helper.to_array(w) for w in written.graph.initializer}
    stored = {
        node.output[0]: node
        for node in written.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    with torch.no_grad():
        ours = network.tensors(torch.from_numpy(samples[:1]), list(stored))
    assert len(ours) > 5
    for name, value in ours.items():
        values, scale, _ = (weights[each] for each in stored[name].input)
        axis = stored[name].attribute[0].i
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        steps = np.abs(value.numpy() / scale.reshape(shape) - values)
        assert steps.max() < 1.1, name
        if values.dtype == np.int8:  # a bias has so many steps that float32 rounds them
            assert (steps > 0.1).mean() < 0.01, name


def test_it_brings_int8_closer_to_float32(
    model: onnx.ModelProto,
    observed: ObservedActivations,
    samples: Pixels,
    outputs: Run,
) -> None:
    expected = outputs(model, samples).embeddings
    tuned = finetuned(model, observed, samples, steps=40)

    def distance(made: onnx.ModelProto) -> float:
        return float(1 - (outputs(made, samples).embeddings * expected).sum(axis=1).mean())

    before = distance(quantised(model, observed))
    assert distance(quantised(tuned, observed, correct=False)) < before


def test_an_operator_that_is_not_known_is_named(
    convolutional: onnx.ModelProto, samples: Pixels
) -> None:
    strange = onnx.ModelProto()
    strange.CopyFrom(convolutional)
    next(n for n in strange.graph.node if n.op_type == "Relu").op_type = "Selu"
    with pytest.raises(UsageError, match="Selu"):
        QuantisedNetwork(strange, convolutional)


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_X = _normal(2, 3, 6, 8)
# Operator, inputs (None: left out), attributes.
CASES: tuple[tuple[str, list[np.ndarray | None], dict[str, Any]], ...] = (
    ("Conv", [_X, _normal(4, 3, 3, 3)], {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ("Conv", [_X, _normal(3, 1, 3, 3), _normal(3)], {"pads": [1] * 4, "group": 3}),
    ("Gemm", [_normal(2, 3), _normal(4, 3), _normal(4)], {"transB": 1}),
    ("MaxPool", [_X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ("AveragePool", [_normal(1, 2, 5, 7)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", [_X[..., :5]], {"kernel_shape": [2] * 2, "ceil_mode": 1}),
    ("AveragePool", [_X], {"kernel_shape": [3] * 2, "pads": [1] * 4}),
    ("LayerNormalization", [_X, _normal(8), _normal(8)], {"epsilon": 1e-3}),
    ("BatchNormalization", [_X, *(_normal(3) for _ in "123"), _normal(3) ** 2], {}),
    ("InstanceNormalization", [_X, _normal(3), _normal(3)], {}),
    ("ReduceMean", [_X, _whole(2, 3)], {"keepdims": 0}),
    ("ReduceL2", [_X, _whole(-1)], {}),
    ("Reshape", [_X, _whole(0, -1)], {}),
    ("Gather", [_X, _whole(5, -1, 0)], {"axis": 2}),
    ("Slice", [_X, _whole(-1), _whole(-9), _whole(2), _whole(-2)], {}),
    ("Split", [_X, _whole(2, 6)], {"axis": 3}),
    ("Expand", [_normal(3, 1, 1), _whole(2, 3, 2, 2)], {}),
    ("Squeeze", [_normal(1, 3, 1), _whole(-1)], {}),
    ("Unsqueeze", [_X, _whole(0, -1)], {}),
    ("Pad", [_X, _whole(0, 0, 1, 2, 0, 0, 3, 0)], {}),
    ("Resize", [_X, None, None, _whole(2, 3, 12, 16)], {"mode": "linear"}),
    ("Resize", [_X, None, None, _whole(2, 3, 12, 16)], {"mode": "nearest"}),
    ("Clip", [_X, np.float32(0), np.float32(1)], {}),
    ("Div", [_whole(-7, 7), _whole(2, 2)], {}),
    ("Gelu", [_X], {"approximate": "tanh"}),
    ("HardSigmoid", [_X], {"alpha": 0.1666}),
    ("HardSwish", [_X], {}),
    ("Softmax", [_X], {"axis": 1}),
    ("Shape", [_X], {"start": 1, "end": 3}),
    ("Max", [_X, _normal(8), np.float32(0.1)], {}),
    ("Tile", [_normal(2, 3), _whole(2, 1)], {}),
    ("Transpose", [_X], {"perm": [0, 2, 3, 1]}),
)


@pytest.mark.parametrize(("name", "inputs", "attributes"), CASES)
def test_an_operator_does_what_onnx_runtime_s_does(
    name: str, inputs: list[np.ndarray | None], attributes: dict[str, Any]
) -> None:
    places = [f"in{n}" if value is not None else "" for n, value in enumerate(inputs)]
    made = ["out0", "out1"][: 2 if name == "Split" else 1]
    node = helper.make_node(name, places, made, **attributes)
    present = dict(zip(places, inputs, strict=True))
    present.pop("", None)
    arrays = {place: np.asarray(value) for place, value in present.items()}
    graph = helper.make_graph(
        [node],
        "case",
        [],
        [helper.make_empty_tensor_value_info(output) for output in made],
        [numpy_helper.from_array(value, place) for place, value in arrays.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    inferred = onnx.shape_inference.infer_shapes(model)
    session = onnxruntime.InferenceSession(
        inferred.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    theirs = session.run(None, {})
    ours = OPERATORS[name](
        [torch.from_numpy(arrays[place].copy()) if place else None for place in places],
        {a.name: helper.get_attribute_value(a) for a in node.attribute},
    )
    ours = ours if isinstance(ours, tuple) else (ours,)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert np.allclose(one.numpy(), other, atol=1e-5)
