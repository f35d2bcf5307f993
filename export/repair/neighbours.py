"""Which nodes else must stay float32, so that kept ones read tensors nobody rounded."""

import onnx


def with_rounders(model: onnx.ModelProto, keep: frozenset[str]) -> frozenset[str]:
    """Return `keep` with the nodes for whose sake its nodes' inputs are rounded.

    A quantiser rounds a tensor (Q, DQ) once for all: because its maker or one of its
    readers is int8. So a kept node reads a rounded tensor until these are kept too.

    Args:
        model: converted with `keep`.
        keep: names of nodes.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted: set[str] = set()
    for node in model.graph.node:
        if node.name in keep:
            wanted |= {rounded_from(name, makers) or "" for name in node.input} - {""}
    rounders = {makers[tensor].name for tensor in wanted if tensor in makers}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and any(
            rounded_from(name, makers) in wanted for name in node.input
        ):
            rounders.add(node.name)
    return keep | rounders


def rounded_from(name: str, makers: dict[str, onnx.NodeProto]) -> str | None:
    """Return the tensor that `name` is rounded from; None if it is not rounded."""
    back = makers.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    there = makers.get(back.input[0])
    if there is None or there.op_type != "QuantizeLinear":
        return None  # a weight, stored as int8
    return str(there.input[0])
