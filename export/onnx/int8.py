"""Int8: quantise weights and activations of the graph with QuantizeLinear pairs (Q/DQ)."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
from jaxtyping import Float
from onnx import numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType

from export.onnx.observation import OPERATORS, ObservedActivations, observe
from export.onnx.reading import ending, require_nodes, rounded_from
from export.plan import RangeMethod
from isogon.progress import Progress
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
_LARGEST = 127  # of symmetric int8
# Int8 operators that write rounded tensors in ONNX Runtime's encoding.
ROUNDING = ("Conv", "MaxPool", "AveragePool")
_LEAST_SCALE = 2.0**-24  # the least float16 number: TensorRT may store scales in it


def int8_model(
    model: onnx.ModelProto,
    pixels: Pixels,
    *,
    method: RangeMethod = "percentile",
    target: Target = "onnxruntime",
    keep: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> onnx.ModelProto:
    """Observe `model` on `pixels` and return it quantised; see `observe`, `quantised`."""
    observed = observe(model, pixels, method=method, progress=progress)
    return quantised(model, observed, target=target, keep=keep)


def quantised(
    model: onnx.ModelProto,
    observed: ObservedActivations,
    *,
    target: Target = "onnxruntime",
    keep: frozenset[str] = frozenset(),
    correct: bool = True,
) -> onnx.ModelProto:
    """Return `model` with int8 Conv, Gemm and MatMul nodes (those with weights).

    Weights are symmetric int8 with a scale per output channel. Biases are corrected
    (`corrected_biases`) if `correct`; a fine-tuned model needs no correction. These stay
    in float32: inputs and outputs, the end of the graph (unit norm and detector), the
    nodes in `keep` (see `_unround` for what they read), and products of two activations,
    as in attention. No encoding of activations suits both runtimes, so there is `target`:

    * "onnxruntime": asymmetric uint8, int32 biases, and outputs quantised after their
      Relu or Clip; the range replaces these nodes, so they are removed. ONNX Runtime's
      CPU kernels fuse this encoding: with VNNI 1.4 to 1.6 times as fast as float32
      on tf_efficientnet_lite0 at 128 pixels, 2.1 to 3 times on resnet18, 1.5 to 1.9 times
      on a ViT-Tiny, but no faster on mobilenetv4_conv_small, whose float32 takes 2.4 ms.
      TensorRT refuses it.
    * "tensorrt": symmetric int8 on inputs only, float32 biases. ONNX Runtime runs it at 0.3
      to 0.9 of float32's speed, because Relu is not fused.

    Other nodes and tensors keep their names; new ones are named after the tensor:
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
    _unround(result, keep, excluded, target)
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


def _unround(
    model: onnx.ModelProto, keep: frozenset[str], untouched: frozenset[str], target: Target
) -> None:
    """Let the nodes in `keep` read float32 tensors where there are any.

    A quantiser gives its rounded copy of a tensor to every reader, also to one that is
    kept. What an int8 Conv or pooling writes is rounded in any case, because ONNX Runtime
    fuses it with its quantisation. Such a copy gets a scale for each channel, all equal:
    with a single one ONNX Runtime (1.31, `WeightBiasQuantization`) takes the kept Conv for
    one that was forgotten, and rounds its weights with one scale for all channels.
    (Keeping all pointwise Conv nodes of mobilenetv4_conv_small changed the mean cosine
    from 0.993 to 0.891.)

    Args:
        model: quantised; changed in place.
        keep: names of nodes.
        untouched: names of all nodes that are not int8.
        target: the runtime whose encoding the model has.
    """
    rounding = ROUNDING if target == "onnxruntime" else ()
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = [node for node in model.graph.node if node.name in keep]
    for node in readers:
        for place, name in enumerate(node.input):
            source = rounded_from(name, makers)
            if source is None:
                continue
            maker = makers.get(source)
            if maker is None or (maker.op_type in rounding and maker.name not in untouched):
                if place == 0 and node.op_type in ("Conv", "Gemm"):
                    node.input[0] = _by_channel(model, makers[name], node)
            else:
                node.input[place] = source
    _remove_unread(model)


def _by_channel(
    model: onnx.ModelProto, rounded: onnx.NodeProto, reader: onnx.NodeProto
) -> str:
    """Return a tensor equal to that of a DequantizeLinear, with a scale per channel."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    weight, groups = weights[reader.input[1]].dims, 1
    for attribute in reader.attribute:
        if attribute.name == "group":
            groups = attribute.i
    turned = any(a.name == "transB" and a.i for a in reader.attribute)
    channels = weight[0] if reader.op_type == "Gemm" and not turned else weight[1] * groups
    names = [rounded.input[0]]
    for name in rounded.input[1:]:
        wide = f"{name}_by_channel"
        if wide not in weights:
            single = numpy_helper.to_array(weights[name])
            tensor = numpy_helper.from_array(np.repeat(single.ravel(), channels), wide)
            graph.initializer.append(tensor)
        names.append(wide)
    output = f"{reader.name}_input"
    added = onnx.helper.make_node(
        "DequantizeLinear", names, [output], f"{reader.name}_DequantizeLinear", axis=1
    )
    place = next(i for i, node in enumerate(graph.node) if node.name == reader.name)
    graph.node.insert(place, added)
    return output


def _remove_unread(model: onnx.ModelProto) -> None:
    """Remove the quantisation of tensors that are now read in float32 only."""
    graph = model.graph
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.node for name in node.input}
        for node in list(graph.node):
            if node.op_type == kind and node.output[0] not in read:
                graph.node.remove(node)


def corrected_biases(
    model: onnx.ModelProto, observed: ObservedActivations, untouched: frozenset[str]
) -> onnx.ModelProto:
    """Return `model` with Conv and Gemm biases that correct for int8 weights.

    Rounding turns the weights W into W + e and moves the output's mean by e E[x]. No
    range of activations corrects this; filters whose weights should cancel out suffer
    most. The mean input E[x] is observed, so e E[x] is subtracted from the bias. On
    tf_efficientnet_lite0 this raises the mean cosine of int8 from 0.985 to 0.996.

    Reference: Nagel et al., "Data-free quantization through weight equalization and bias
    correction", arXiv:1906.04721, section 4.2. Like them (appendix D) we observe E[x] on
    images, but for all layers at once, in float32, and without the padding.

    A bias shared by several nodes is copied for each, named after the node. The weights of
    a dead channel, too small for a float16 scale, become 0.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        constant = len(node.input) == 3 and set(node.input[1:]) <= weights.keys()
        if node.op_type not in ("Conv", "Gemm") or not constant or node.name in untouched:
            continue
        weight, bias = (numpy_helper.to_array(weights[name]) for name in node.input[1:])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        turned = node.op_type == "Gemm" and not attributes.get("transB")
        rows = weight.T if turned else weight  # output channels first
        scale = _scale(rows)
        rounded = np.round(rows / np.where(scale, scale, 1)) * scale
        moved = _moved(
            rounded - rows, observed.means[node.input[0]], attributes.get("group", 1)
        )
        alive = rows * (scale != 0)
        weights[node.input[1]].CopyFrom(
            numpy_helper.from_array(alive.T if turned else alive, node.input[1])
        )
        own = f"{node.input[2]}_{node.name}"
        graph.initializer.append(
            numpy_helper.from_array((bias - moved).astype(np.float32), own)
        )
        node.input[2] = own
    return result


def _scale(weight: Float[np.ndarray, "out ..."]) -> Float[np.ndarray, "out ..."]:
    """Return the scale of each output channel's int8 weights; 0 for a dead channel."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = largest / _LARGEST
    return np.where(scale < _LEAST_SCALE, 0, scale).astype(np.float32)


def _moved(
    error: Float[np.ndarray, "out in_group ..."],
    mean: Float[np.ndarray, " in"],
    groups: int,
) -> Float[np.ndarray, " out"]:
    """Return how much a weight's rounding error moves the mean of each output."""
    by_input = error.reshape(groups, len(error) // groups, error.shape[1], -1).sum(axis=3)
    moved: Float[np.ndarray, " out"] = np.einsum(
        "goi,gi->go", by_input, mean.reshape(groups, -1)
    ).ravel()
    return moved
