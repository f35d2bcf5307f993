"""An int8 ONNX graph as a torch module: what ONNX Runtime computes, with gradients.

QuantizeLinear rounds and clamps in the forward pass; gradients pass through wherever
nothing is clamped (straight-through: arXiv:1308.3432). So the graph is simulated with the
exporter's own Q/DQ nodes, scales and zero points, for any network.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx
import torch
from jaxtyping import Float, UInt8
from onnx import helper, numpy_helper
from torch import Tensor, nn

from export.finetuning.operators import OPERATORS, Attributes
from isogon.errors import UsageError, option

_TRAINED = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "LayerNormalization": (1, 2)}
_QUANTISERS = {"QuantizeLinear", "DequantizeLinear"}
_STORED = "_quantized"  # ONNX Runtime's quantiser appends this to a weight's name


class QuantisedNetwork(nn.Module):
    """The part of an int8 graph that computes the embedding, with float32 weights to train.

    The weights of Conv, Gemm, MatMul and LayerNormalization nodes and their biases are
    parameters (the bias of a MatMul is a vector that an Add adds); everything else is
    constant. An int8 weight's scale is what the exporter
    would choose for the present parameter: its channel's largest magnitude over 127.

    The unit of a parameter is the initial scale of its channel (for a vector: 1/127 of
    its largest value) over the square root of the fan-in. So one learning rate suits
    all: channels of a folded batch norm differ by factors of thousands, and a sum of
    1152 weights moves more than one of few.
    """

    def __init__(self, quantised: onnx.ModelProto, float32: onnx.ModelProto) -> None:
        """Take the graph of `quantised` and the weights of `float32`, its source.

        Raises:
            UsageError: the graph has an operator that is not implemented here.
        """
        super().__init__()
        graph = quantised.graph
        self._nodes = _needed(graph, "embedding")
        unknown = {node.op_type for node in self._nodes} - OPERATORS.keys() - _QUANTISERS
        if unknown:
            raise UsageError(
                f"Int8 cannot be fine-tuned here: the student's graph has the operators "
                f"{', '.join(sorted(unknown))}, which fine-tuning does not support. Leave "
                f"{option('finetune', True)} out."
            )
        originals = {w.name: w for w in float32.graph.initializer}
        self._attributes = [_attributes(node) for node in self._nodes]
        self._constants = {w.name: _tensor(w) for w in graph.initializer}
        self._stored: dict[str, str] = {}  # DequantizeLinear output -> its parameter
        makers = {name: node for node in self._nodes for name in node.output}
        self._units: dict[str, Tensor] = {}
        self.weights = nn.ParameterDict()
        for node in self._nodes:
            for place in _trained_places(node, originals):
                name = node.input[place] if place < len(node.input) else ""
                source, back = name, makers.get(name)
                if back is not None and back.op_type == "DequantizeLinear":
                    source = back.input[0].removesuffix(_STORED)
                    self._stored[name] = _key(source)
                if source not in originals:
                    continue  # a product of two activations, or no bias
                self._constants.pop(name, None)
                value = _tensor(originals[source])
                unit = _scales(value, 1 if node.op_type == "MatMul" else 0)
                unit = (
                    unit.amax() if value.ndim == 1 else unit / _fan_in(value, unit) ** 0.5
                )
                self._units[_key(source)] = unit
                self.weights[_key(source)] = nn.Parameter(value / unit)
        self._originals = {_key(name): name for name in originals}

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b d"]:
        """Return unit-norm embeddings, as the int8 file gives them."""
        return self.tensors(images, ["embedding"])["embedding"]

    def tensors(
        self,
        images: UInt8[Tensor, "b h w 3"],
        names: Collection[str],
        given: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> dict[str, Tensor]:
        """Return tensors of the graph by name; quantised ones hold whole numbers.

        Args:
            images: pixels.
            names: the tensors to return.
            given: values that later nodes read instead of the computed tensor, to see
                what each node makes of another runtime's numbers.
        """
        found: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {"images": images, **self._constants}
        values |= {self._originals[key]: self._weight(key) for key in self.weights}
        for node, attributes in zip(self._nodes, self._attributes, strict=True):
            if node.op_type in _QUANTISERS:
                made = self._requantised(node, attributes, values)
            else:
                inputs = [values[name] if name else None for name in node.input]
                made = OPERATORS[node.op_type](inputs, attributes)
            outputs = made if isinstance(made, tuple) else (made,)
            for name, value in zip(node.output, outputs, strict=False):
                values[name] = given.get(name, value)
                if name in names:
                    found[name] = value
        return found

    def trained(self, float32: onnx.ModelProto) -> onnx.ModelProto:
        """Return a copy of `float32` with the present weights."""
        result = onnx.ModelProto()
        result.CopyFrom(float32)
        for tensor in result.graph.initializer:
            key = _key(tensor.name)
            if key in self.weights:
                values = self._weight(key).detach().numpy()
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return result

    def _weight(self, key: str) -> Tensor:
        """Return a weight in the graph's units."""
        weight: Tensor = self.weights[key] * self._units[key]
        return weight

    def _requantised(
        self,
        node: onnx.NodeProto,
        attributes: Attributes,
        values: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the output of a QuantizeLinear or DequantizeLinear."""
        scale, zero = (values[name] for name in node.input[1:3])
        key = self._stored.get(node.output[0], "")
        if node.op_type == "QuantizeLinear":
            return _rounded(values[node.input[0]], scale, zero)
        if key not in self.weights:
            if scale.ndim and scale.numel() > 1:  # of a kept node's input, by channel
                shape = [-1, *[1] * (values[node.input[0]].ndim - 2)]
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            return (values[node.input[0]] - zero) * scale
        weight, axis = values[self._originals[key]], attributes.get("axis", 1)
        if zero.dtype != torch.int8:  # a bias: its grid is so fine that the scale may stay
            return _rounded(weight, scale, zero) * scale
        scale = _scales(weight.detach(), axis)
        return _rounded(weight, scale, zero[:1]) * scale


def _trained_places(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]
) -> Sequence[int]:
    """Return which inputs of `node` may be weights to train."""
    if node.op_type != "Add":
        return _TRAINED.get(node.op_type, ())
    vectors = [name in weights and len(weights[name].dims) == 1 for name in node.input]
    return [place for place, vector in enumerate(vectors) if vector]


def _rounded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return `x` as quantised integers, held in float32."""
    steps = x / scale
    steps = steps + (steps.round() - steps).detach()
    if zero.dtype == torch.int32:
        return steps
    bounds = torch.iinfo(zero.dtype)
    return (steps + zero).clamp(bounds.min, bounds.max)


def _scales(weight: Tensor, axis: int) -> Tensor:
    """Return the exporter's scale of each channel, shaped to divide the weight."""
    others = [place for place in range(weight.ndim) if place != axis % weight.ndim]
    scales = (weight.abs().amax(others, keepdim=True).double() * 2 / 254).float()
    return scales.where(scales > 0, torch.ones(()))


def _fan_in(weight: Tensor, scales: Tensor) -> float:
    """Return the number of weights per output."""
    return weight.numel() / scales.numel()


def _needed(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that `output` depends on, in order."""
    wanted, found = {output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted |= set(node.input)
            found.append(node)
    return found[::-1]


def _attributes(node: onnx.NodeProto) -> Attributes:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _tensor(weight: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(weight)))


def _key(name: str) -> str:
    """Return the name with dots replaced: torch allows none in parameter names."""
    return name.replace(".", "/")
