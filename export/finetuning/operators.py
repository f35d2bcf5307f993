"""ONNX operators in torch, with gradients: those that the exporter writes for students.

Each takes the node's inputs (None for an absent one) and its attributes, and returns what
the operator's specification says: https://onnx.ai/onnx/operators.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from isogon.errors import UsageError, option

Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Any]

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
    TensorProto.UINT8: torch.uint8,
    TensorProto.DOUBLE: torch.float64,
}
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d}


def _padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes; `pads` has all begins, then all ends, as ONNX does."""
    half = len(pads) // 2
    pairs = zip(reversed(pads[:half]), reversed(pads[half:]), strict=True)
    flat = [number for pair in pairs for number in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _convolution(given: list[Any], at: Attributes) -> Tensor:
    x, weight, bias = (*given, None)[:3]
    axes = weight.ndim - 2
    if at.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise _unknown("a Conv with auto_pad")
    pads = at.get("pads", [0] * (2 * axes))
    symmetric = pads[:axes] == pads[axes:]
    return _CONVOLUTIONS[axes](
        x if symmetric else _padded(x, pads),
        weight,
        bias,
        stride=at.get("strides", [1] * axes),
        padding=pads[:axes] if symmetric else 0,
        dilation=at.get("dilations", [1] * axes),
        groups=at.get("group", 1),
    )


def _gemm(given: list[Any], at: Attributes) -> Tensor:
    a, b, c = (*given, None)[:3]
    a = a.T if at.get("transA") else a
    b = b.T if at.get("transB") else b
    made: Tensor = at.get("alpha", 1.0) * (a @ b)
    return made if c is None else made + at.get("beta", 1.0) * c


def _max_pool(given: list[Any], at: Attributes) -> Tensor:
    return F.max_pool2d(
        given[0],
        at["kernel_shape"],
        at.get("strides", [1, 1]),
        _symmetric(at),
        at.get("dilations", [1, 1]),
        ceil_mode=bool(at.get("ceil_mode")),
    )


def _average_pool(given: list[Any], at: Attributes) -> Tensor:
    return F.avg_pool2d(
        given[0],
        at["kernel_shape"],
        at.get("strides", [1, 1]),
        _symmetric(at),
        ceil_mode=bool(at.get("ceil_mode")),
        count_include_pad=bool(at.get("count_include_pad")),
    )


def _symmetric(at: Attributes) -> list[int]:
    """Return the padding of each axis; it must be the same on both sides."""
    pads: list[int] = at.get("pads", [0, 0, 0, 0])
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        raise _unknown("a pooling whose padding differs between the sides")
    return pads[:half]


def _unknown(what: str) -> UsageError:
    return UsageError(
        f"Int8 cannot be fine-tuned here: the student's graph has {what}, which "
        f"fine-tuning does not support. Leave {option('finetune', True)} out."
    )


def _layer_norm(given: list[Any], at: Attributes) -> Tensor:
    x, gain, offset = (*given, None)[:3]
    axis = at.get("axis", -1) % x.ndim
    return F.layer_norm(x, x.shape[axis:], gain, offset, at.get("epsilon", 1e-5))


def _batch_norm(given: list[Any], at: Attributes) -> Tensor:
    x, gain, offset, mean, variance = given
    epsilon = at.get("epsilon", 1e-5)
    return F.batch_norm(x, mean, variance, gain, offset, training=False, eps=epsilon)


def _instance_norm(given: list[Any], at: Attributes) -> Tensor:
    return F.instance_norm(
        given[0], weight=given[1], bias=given[2], eps=at.get("epsilon", 1e-5)
    )


def _reduction(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(given: list[Any], at: Attributes) -> Tensor:
        x, axes = (*given, None)[:2]
        axes = at.get("axes") if axes is None else axes.tolist()
        if axes is None or not len(axes):
            if at.get("noop_with_empty_axes"):
                return given[0]  # type: ignore[no-any-return]
            axes = list(range(x.ndim))
        return reduce(x, axes, bool(at.get("keepdims", 1)))

    return operator


def _reshape(given: list[Any], at: Attributes) -> Tensor:
    x, shape = given[0], given[1].tolist()
    if not at.get("allowzero"):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)  # type: ignore[no-any-return]


def _gather(given: list[Any], at: Attributes) -> Tensor:
    x, places = given
    axis = at.get("axis", 0) % x.ndim
    flat = places.reshape(-1) % x.shape[axis]
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, flat).reshape(shape)  # type: ignore[no-any-return]


def _slice(given: list[Any], at: Attributes) -> Tensor:
    x, starts, ends, axes, steps = (*given, None, None)[:5]
    count = len(starts)
    axes = range(count) if axes is None else axes.tolist()
    steps = [1] * count if steps is None else steps.tolist()
    for start, end, axis, step in zip(
        starts.tolist(), ends.tolist(), axes, steps, strict=True
    ):
        places = range(x.shape[axis])[start:end:step]
        chosen = torch.arange(places.start, places.stop, places.step)
        x = x.index_select(axis, chosen)
    return x  # type: ignore[no-any-return]


def _split(given: list[Any], at: Attributes) -> tuple[Tensor, ...]:
    x, sizes = (*given, None)[:2]
    axis = at.get("axis", 0)
    if sizes is not None:
        return tuple(x.split(sizes.tolist(), axis))
    return tuple(x.split(math.ceil(x.shape[axis] / at["num_outputs"]), axis))


def _expand(given: list[Any], at: Attributes) -> Tensor:
    return given[0] * torch.ones(given[1].tolist(), dtype=given[0].dtype)  # type: ignore[no-any-return]


def _squeeze(given: list[Any], at: Attributes) -> Tensor:
    x, axes = (*given, None)[:2]
    return x.squeeze() if axes is None else x.squeeze(axes.tolist())  # type: ignore[no-any-return]


def _unsqueeze(given: list[Any], at: Attributes) -> Tensor:
    x, axes = given[0], given[1].tolist()
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x  # type: ignore[no-any-return]


def _pad(given: list[Any], at: Attributes) -> Tensor:
    x, pads, value, axes = (*given, None, None)[:4]
    if at.get("mode", b"constant") != b"constant" or axes is not None:
        raise _unknown("a Pad by something else than a constant")
    return _padded(x, pads.tolist(), 0.0 if value is None else value.item())


def _resize(given: list[Any], at: Attributes) -> Tensor:
    mode = at.get("mode", b"nearest").decode()
    modes = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
    where = at.get("coordinate_transformation_mode", b"half_pixel")
    if given[0].ndim != 4 or (mode != "nearest" and where != b"half_pixel"):
        raise _unknown(f"a Resize, {mode} with {where.decode()}")
    x, _, scales, sizes = (*given, None, None)[:4]
    if sizes is None:
        sizes = (torch.tensor(x.shape) * scales).long()
    return F.interpolate(x, sizes.tolist()[2:], mode=modes[mode])


def _shape(given: list[Any], at: Attributes) -> Tensor:
    return torch.tensor(given[0].shape)[at.get("start", 0) : at.get("end")]


def _range(given: list[Any], at: Attributes) -> Tensor:
    return torch.arange(*(number.item() for number in given), dtype=given[0].dtype)


def _divided(given: list[Any], at: Attributes) -> Tensor:
    whole = None if given[0].is_floating_point() else "trunc"
    return torch.div(*given, rounding_mode=whole)


def _clip(given: list[Any], at: Attributes) -> Tensor:
    x, low, high = (*given, None, None)[:3]
    return torch.clamp(x, low, high)


def _cast(given: list[Any], at: Attributes) -> Tensor:
    return given[0].to(_TYPES[at["to"]])  # type: ignore[no-any-return]


def _gelu(given: list[Any], at: Attributes) -> Tensor:
    return F.gelu(given[0], approximate=at.get("approximate", b"none").decode())


def _hard_sigmoid(given: list[Any], at: Attributes) -> Tensor:
    made: Tensor = at.get("alpha", 0.2) * given[0] + at.get("beta", 0.5)
    return made.clamp(0, 1)


def _norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    made: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
    return made


def _of_all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Return an operator of any number of inputs from a function of two."""
    return lambda given, at: list(accumulate(given, function))[-1]


def _plain(function: Callable[..., Tensor]) -> Operator:
    """Return an operator without attributes."""
    return lambda given, at: function(*given)


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda given, at: torch.cat(given, at["axis"]),
    "Conv": _convolution,
    "Cos": _plain(torch.cos),
    "Div": _divided,
    "Elu": lambda given, at: F.elu(given[0], at.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": lambda given, at: given[0].flatten(at.get("axis", 1)),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda given, at: given[0].mean((2, 3), keepdim=True),
    "Greater": _plain(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": lambda given, at: given[0],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda given, at: F.leaky_relu(given[0], at.get("alpha", 0.01)),
    "Less": _plain(torch.lt),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "Max": _of_all(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _of_all(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Range": _range,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduction(_norm),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": lambda given, at: given[0].softmax(at.get("axis", -1)),
    "Softplus": _plain(F.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Tile": lambda given, at: given[0].tile(given[1].tolist()),
    "Transpose": lambda given, at: given[0].permute(at["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
