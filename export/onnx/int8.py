"""Int8: weights and activations of the inside in eight bits, by pairs of Q and DQ."""

from collections.abc import Mapping
from typing import Any, Literal

import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType
from rich.progress import Progress

from export.onnx.bias_correction import corrected_biases
from export.onnx.ending import ending
from export.onnx.naming import require_nodes
from export.onnx.observation import OPERATORS, Method, Observed, observe
from isogon.runtimes import Pixels

Target = Literal["onnxruntime", "tensorrt"]

_WEIGHTED = ("Conv", "MatMul", "Gemm")
_OPERATORS: Mapping[Target, tuple[str, ...]] = {
    "onnxruntime": OPERATORS,
    "tensorrt": _WEIGHTED,
}
_OPTIONS: Mapping[Target, Mapping[str, Any]] = {
    "onnxruntime": {
        "ActivationSymmetric": False,
        "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
    },
    "tensorrt": {
        "ActivationSymmetric": True,
        "OpTypesToExcludeOutputQuantization": list(_WEIGHTED),
        "QuantizeBias": False,
    },
}


def int8_model(
    model: onnx.ModelProto,
    pixels: Pixels,
    *,
    method: Method = "percentile",
    target: Target = "onnxruntime",
    keep: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """Observe `model` on `pixels` and return it quantised; see `observe`, `quantised`."""
    observed = observe(model, pixels, method=method, progress=progress)
    return quantised(model, observed, target=target, keep=keep)


def quantised(
    model: onnx.ModelProto,
    observed: Observed,
    *,
    target: Target = "onnxruntime",
    keep: frozenset[str] = frozenset(),
    correct: bool = True,
) -> onnx.ModelProto:
    """Return `model` with int8 Conv, Gemm and MatMul nodes (those with weights).

    Weights are symmetric int8 with a scale per output channel. Biases are corrected
    (`corrected_biases`), unless `correct` is false: those of a fine-tuned model are as
    int8 needs them. In float32 stay the inputs and outputs, the end of the graph (unit
    norm and detector), the nodes in `keep`, and products of two activations, as in
    attention. No encoding of activations suits everyone, hence `target`:

    * "onnxruntime": asymmetric uint8, int32 biases, and outputs quantised behind their
      Relu or Clip, which the range then replaces, so that these nodes are gone. This is
      what ONNX Runtime's CPU kernels fuse: with VNNI 1.4 to 1.6 times as fast as float32
      on tf_efficientnet_lite0 at 128 pixels, 2.1 to 3 times on resnet18, 1.5 to 1.9 times
      on a ViT-Tiny, but no faster on mobilenetv4_conv_small, whose float32 takes 2.4 ms.
      TensorRT refuses it.
    * "tensorrt": symmetric int8 on inputs alone, float32 biases. ONNX Runtime runs it at
      0.3 to 0.9 of float32's speed, because a Relu no longer fuses.

    Other nodes and tensors keep their names; new ones are called after the tensor, as in
    `<tensor>_QuantizeLinear`.

    Raises:
        UsageError: `keep` names no node of the model.
    """
    require_nodes(model, keep)
    excluded = unquantised(model, keep)
    corrected = corrected_biases(model, observed, excluded) if correct else model
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(corrected),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if target == "tensorrt" else QuantType.QUInt8,
        tensors_range=observed.ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=list(_OPERATORS[target]),
        extra_options={**_OPTIONS[target], "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantizer.model.clean_initializers()
    result: onnx.ModelProto = quantizer.model.model
    return result


def unquantised(model: onnx.ModelProto, keep: frozenset[str]) -> frozenset[str]:
    """Return the names of all nodes that stay in float32; see `quantised`."""
    weights = {tensor.name for tensor in model.graph.initializer}
    products = {
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and not weights.intersection(node.input)
    }
    return keep | ending(model) | products
