"""Float16: strongly typed inside, float32 at the end, and nothing clamped."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.onnx import float16_model
from export.onnx.reading import ending
from isogon.errors import UsageError
from isogon.runtimes import Outputs, Pixels

Run = Callable[..., Outputs]


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor, inferred strictly from inputs and weights."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare, strict_mode=True, check_type=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {weight.name: weight.data_type for weight in graph.initializer}


def nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def weighted(model: onnx.ModelProto) -> list[str]:
    """The names of the inside's Conv, Gemm and MatMul nodes."""
    end = ending(model)
    operators = ("Conv", "Gemm", "MatMul")
    inside = (node for node in model.graph.node if node.name not in end)
    return [node.name for node in inside if node.op_type in operators]


def test_the_end_is_the_unit_norm_and_the_detector(model: onnx.ModelProto) -> None:
    end = [node for node in model.graph.node if node.name in ending(model)]
    operators = [node.op_type for node in end]
    assert operators[:2] == ["Mul", "ReduceSum"]
    assert operators.count("MatMul") == operators.count("TopK") == 1
    assert not {"Conv", "Gemm"}.intersection(operators)
    assert {"embedding", "ood_score"} <= {name for node in end for name in node.output}


def test_inside_everything_is_float16_and_outside_nothing(model: onnx.ModelProto) -> None:
    half = float16_model(model)
    onnx.checker.check_model(half, full_check=True)
    before, after, end = types(model), types(half), ending(model)
    for node in model.graph.node:
        floats = [n for n in node.output if before[n] == TensorProto.FLOAT]
        expected = TensorProto.FLOAT if node.name in end else TensorProto.FLOAT16
        assert {after[name] for name in floats} <= {expected}, node.name
    inside = {
        name
        for node in half.graph.node
        if node.name not in end and not node.name.startswith("Cast_")
        for name in node.input
    }
    assert not {name for name in inside if after[name] == TensorProto.FLOAT}
    assert after["images"] == TensorProto.UINT8
    assert after["embedding"] == after["ood_score"] == TensorProto.FLOAT
    for value in half.graph.value_info:
        assert value.type.tensor_type.elem_type == after[value.name]


def test_one_cast_meets_the_end(model: onnx.ModelProto) -> None:
    casts = [node for node in float16_model(model).graph.node if node.op_type == "Cast"]
    (made,) = (node for node in casts if node.name.startswith("Cast_"))
    assert made.output[0] == f"{made.input[0]}_float32"
    assert len(casts) == 2  # and that of the pixels


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_float16_is_close_to_float32(
    model: onnx.ModelProto, pixels: Pixels, outputs: Run, batch: int
) -> None:
    ours = outputs(float16_model(model), pixels, batch)
    theirs = outputs(model, pixels, batch)
    assert (ours.embeddings * theirs.embeddings).sum(axis=1).min() > 0.9999
    assert np.abs(ours.ood_scores - theirs.ood_scores).max() < 0.01
    assert ours.ood_scores.dtype == np.float32
    assert (ours.embeddings != theirs.embeddings).any()


def test_weights_take_half_the_room(model: onnx.ModelProto) -> None:
    before, after = (
        sum(
            numpy_helper.to_array(weight).nbytes
            for weight in each.graph.initializer
            if weight.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        )
        for each in (model, float16_model(model))
    )
    bank = 4 * 250 * 32  # at most; of the detector, in float32
    assert before / 2 <= after <= before / 2 + bank


def test_names_and_metadata_stay(model: onnx.ModelProto) -> None:
    original = model.SerializeToString()
    half = float16_model(model)
    assert model.SerializeToString() == original
    assert half.metadata_props == model.metadata_props
    after = nodes(half)
    for name, node in nodes(model).items():
        assert after[name].op_type == node.op_type
        assert after[name].output == node.output
        assert after[name].metadata_props == node.metadata_props


def test_exactly_the_nodes_asked_for_stay_in_float32(model: onnx.ModelProto) -> None:
    chosen = weighted(model)[1::3]
    half = float16_model(model, keep=frozenset(chosen))
    onnx.checker.check_model(half, full_check=True)
    after = types(half)
    for name in weighted(model):
        node = nodes(half)[name]
        expected = TensorProto.FLOAT if name in chosen else TensorProto.FLOAT16
        assert {after[each] for each in [*node.input, *node.output]} == {expected}


def test_keeping_everything_changes_nothing(
    model: onnx.ModelProto, pixels: Pixels, outputs: Run
) -> None:
    kept = float16_model(model, keep=frozenset(nodes(model)))
    assert kept.graph.node == model.graph.node
    found, expected = outputs(kept, pixels[:4]), outputs(model, pixels[:4])
    assert (found.embeddings == expected.embeddings).all()


def test_neighbours_that_are_kept_pass_float32_between_them(
    convolutional: onnx.ModelProto,
) -> None:
    chain = frozenset(node.name for node in convolutional.graph.node[6:10])
    half = float16_model(convolutional, keep=chain)
    made = [node.name for node in half.graph.node if node.name.startswith("Cast_")]
    assert len([name for name in made if name.endswith("_float32")]) == 2  # and the end


def model_of(*inside: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """Pixels through `inside`, from `x` to `y`, and then the unit norm."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["x"], "cast", to=TensorProto.FLOAT),
            *inside,
            helper.make_node("ReduceL2", ["y", "axes"], ["norm"], "norm", keepdims=1),
            helper.make_node("Div", ["y", "norm"], ["embedding"], "div"),
        ],
        "made",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 4])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", "d"])],
        [
            numpy_helper.from_array(value, name)
            for name, value in {"axes": np.array([1]), **weights}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize(
    "constant",
    [
        np.array([0, -1e9, 0, 0], np.float32),
        np.float32(70000),
        np.float32(1e-12),
    ],
    ids=["mask", "overflow", "epsilon"],
)
def test_a_constant_that_float16_cannot_hold_keeps_its_node(constant: np.ndarray) -> None:
    half = float16_model(
        model_of(
            helper.make_node("Add", ["x", "constant"], ["shifted"], "add"),
            helper.make_node("Sqrt", ["shifted"], ["y"], "sqrt"),
            constant=constant,
        )
    )
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found["shifted"] == TensorProto.FLOAT
    assert found["y"] == TensorProto.FLOAT16
    (weight,) = (w for w in half.graph.initializer if w.name == "constant")
    assert (numpy_helper.to_array(weight) == constant).all()


def test_infinity_and_small_weights_are_held() -> None:
    half = float16_model(
        model_of(
            helper.make_node("Add", ["x", "mask"], ["masked"], "add"),
            helper.make_node("Mul", ["masked", "small"], ["y"], "mul"),
            mask=np.array([0, -np.inf, 0, 0], np.float32),
            small=np.array([1, 1e-12, 1, 1], np.float32),
        )
    )
    assert types(half)["y"] == TensorProto.FLOAT16


def test_a_constant_node_is_judged_like_a_weight() -> None:
    half = float16_model(
        model_of(
            helper.make_node(
                "Constant",
                [],
                ["large"],
                "constant",
                value=numpy_helper.from_array(np.float32(1e6)),
            ),
            helper.make_node("Add", ["x", "large"], ["sum"], "add"),
            helper.make_node("Constant", [], ["two"], "two", value_float=2.0),
            helper.make_node("Mul", ["sum", "two"], ["y"], "mul"),
        )
    )
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found["sum"] == found["two"] == TensorProto.FLOAT
    assert found["y"] == TensorProto.FLOAT16


def test_an_operator_without_float16_stays_and_scales_of_resize_do() -> None:
    half = float16_model(
        model_of(
            helper.make_node("Unsqueeze", ["x", "front"], ["maps"], "maps"),
            helper.make_node("Resize", ["maps", "", "scales"], ["large"], "resize"),
            helper.make_node("Squeeze", ["large", "front"], ["flat"], "flat"),
            helper.make_node("Range", ["zero", "eight", "one"], ["ramp"], "range"),
            helper.make_node("Add", ["flat", "ramp"], ["y"], "add"),
            front=np.array([0]),
            scales=np.array([1, 1, 2], np.float32),
            zero=np.float32(0),
            eight=np.float32(8),
            one=np.float32(1),
        )
    )
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found["large"] == found["y"] == TensorProto.FLOAT16
    assert found["scales"] == found["ramp"] == TensorProto.FLOAT


@pytest.mark.parametrize("kept", [(), ("weighted",), ("turned",)])
def test_a_turned_batch_before_a_weight_opens_in_onnx_runtime(
    kept: tuple[str, ...],
) -> None:
    """In a separate process, because ONNX Runtime 1.24 to 1.31 crashes on a wrong file."""
    make = helper.make_node
    weight = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    graph = helper.make_graph(
        [
            make("Transpose", ["x"], ["t"], "turned", perm=[1, 0, 2]),
            make("MatMul", ["t", "w"], ["m"], "weighted"),
            make("ReduceL2", ["m"], ["n"], "norm"),
            make("Div", ["m", "n"], ["embedding"], "unit"),
        ],
        "turned",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 5, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [5, "b", 12])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    half = float16_model(model, keep=frozenset(kept))
    onnx.checker.check_model(half, full_check=True)
    code = (
        "import sys, numpy, onnxruntime; x = numpy.ones((2, 5, 8), numpy.float32); "
        "s = onnxruntime.InferenceSession(sys.stdin.buffer.read(), "
        "providers=['CPUExecutionProvider']); print(s.run(None, {'x': x})[0].shape)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=half.SerializeToString(), capture_output=True
    )
    assert found.stdout.decode().strip() == "(5, 2, 12)"


def test_a_node_that_is_not_there_cannot_be_kept(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="no such node"):
        float16_model(model, keep=frozenset({"node_nowhere"}))


def test_a_graph_without_unit_norm_is_refused() -> None:
    other = model_of(helper.make_node("Sqrt", ["x"], ["y"], "sqrt"))
    other.graph.node[-1].op_type = "Mul"
    with pytest.raises(UsageError, match="a Div, found the Mul div"):
        float16_model(other)


def test_tensorrt_takes_it(
    model: onnx.ModelProto, parsed: Callable[[onnx.ModelProto], list[str]]
) -> None:
    assert parsed(model) == []
    assert parsed(float16_model(model)) == []
    assert parsed(float16_model(model, keep=frozenset(weighted(model)[1::3]))) == []
