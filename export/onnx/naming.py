"""Nodes that a caller names."""

import onnx

from isogon.errors import UsageError


def require_nodes(model: onnx.ModelProto, names: frozenset[str]) -> None:
    """Raise `UsageError` unless all `names` are those of nodes of `model`."""
    unknown = sorted(names - {node.name for node in model.graph.node})
    if unknown:
        raise UsageError(
            f"`keep` names {', '.join(unknown[:3])}, and the model has no such node. "
            f"Name nodes of the float32 model."
        )
