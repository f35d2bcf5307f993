r"""OpenVINO loses a quantised convolution's bias where indices depend on the batch.

    pip install numpy onnx onnxruntime openvino
    python benchmarks/openvino_bias.py

One Conv with an int8 weight, a bias and uint8 activations, in ONNX's Q/DQ encoding, with a
dynamic batch. The graph also has `Range(0, Shape(x)[0], 1)`, which the Conv does not read.
OpenVINO's CPU plugin (2026.4.1) then computes as if the Conv had another bias; without the
Range, with a static batch, without a bias or in float32 it is right. It does not depend on
the zero point, the padding, the bias's type or VNNI.

In the compiled graph the Range's ShapeOf reads the Conv's output instead of the input, so
that output has two readers, the bias's Add and the ShapeOf. The Add is missing from the
compiled graph, and the FakeQuantize after it has one range for all channels.

Exit status 1 if the answers differ.
"""

import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8
ONE_STEP = 1.01 * 6 / 255  # of the output's grid: the runtimes may round differently


def graph(*, with_range: bool, with_bias: bool, batch: int | str) -> onnx.ModelProto:
    """Return Q, DQ, Conv, Q, DQ; optionally with a Range over the batch."""
    random = np.random.default_rng(0)
    constants = {
        "scale": np.float32(1 / 128),
        "zero": np.uint8(128),
        "weight": random.integers(-127, 128, (CHANNELS, 3, 3, 3)).astype(np.int8),
        "weight_scale": random.uniform(0.005, 0.02, CHANNELS).astype(np.float32),
        "weight_zero": np.zeros(CHANNELS, np.int8),
        "bias": random.normal(size=CHANNELS).astype(np.float32) * 2,
        "out_scale": np.float32(6 / 255),
        "out_zero": np.uint8(0),
        "begin": np.int64(0),
        "step": np.int64(1),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x_"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w_"], axis=0
        ),
        helper.make_node("Conv", ["x_", "w_"] + ["bias"] * with_bias, ["conv"]),
        helper.make_node("QuantizeLinear", ["conv", "out_scale", "out_zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "out_scale", "out_zero"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if with_range:
        nodes += [
            helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
            helper.make_node("Squeeze", ["shape"], ["end"]),
            helper.make_node("Range", ["begin", "end", "step"], ["rows"]),
        ]
        outputs.append(helper.make_tensor_value_info("rows", TensorProto.INT64, None))
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])
    read = {name for node in nodes for name in node.input}
    weights = [
        numpy_helper.from_array(value, name)
        for name, value in constants.items()
        if name in read
    ]
    body = helper.make_graph(nodes, "bias", [images], outputs, weights)
    return helper.make_model(
        body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )


def largest_difference(model: onnx.ModelProto) -> float:
    """Return the largest difference of OpenVINO and ONNX Runtime on one random batch."""
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (expected,) = session.run(["y"], {"x": x})
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return float(np.abs(compiled({"x": x})["y"] - expected).max())


def main() -> int:
    """Print the largest difference of each graph, and return the exit status."""
    print(f"OpenVINO {openvino.__version__}, ONNX Runtime {onnxruntime.__version__}")
    wrong = False
    for batch in ("batch", 2):
        for with_range in (False, True):
            for with_bias in (True, False):
                found = largest_difference(
                    graph(with_range=with_range, with_bias=with_bias, batch=batch)
                )
                print(
                    f"batch {'dynamic' if batch == 'batch' else 'static '}, "
                    f"{'with' if with_range else 'no'} Range, "
                    f"{'with' if with_bias else 'no'} bias: largest difference {found:.3f}"
                    f"{'' if found <= ONE_STEP else '  WRONG'}"
                )
                wrong |= not found <= ONE_STEP
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
