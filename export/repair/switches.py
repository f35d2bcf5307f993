"""Both graphs in one, with a switch at every node that selects whose result is used."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

import onnx
from onnx import TensorProto, helper

from export.divergence.compare import matched
from export.divergence.tensors import identities

SWITCHES = "switches"
_THEIRS, _OURS, _GIVEN = "candidate/", "reference/", "given/"


def candidates_own(tensor: str) -> str:
    """Return the name of a candidate's tensor in the switched graph."""
    return f"{_THEIRS}{tensor}"


def switchable(
    reference: onnx.ModelProto, candidate: onnx.ModelProto
) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Return the matched nodes whose first output is a float and may be exchanged."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    typed = [*reference.graph.value_info, *reference.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in typed}
    return [
        (ours, theirs)
        for ours, theirs in matched(reference, candidate)
        if types.get(ours.output[0]) in floats
    ]


def switched_model(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    pairs: Sequence[tuple[onnx.NodeProto, onnx.NodeProto]],
) -> onnx.ModelProto:
    """Return one graph with the nodes of both, and a switch for every pair.

    Every node of `pairs` is computed twice from the same inputs: by the reference and by
    the candidate (with the casts, Q and DQ before it). The input `switches`, bool
    [pairs], selects which result later nodes use: False is the reference's. With all
    False the candidate's tensors show each node's own error on the reference's inputs;
    with one True the outputs show the effect of that node alone.
    """
    theirs = {other.output[0]: ours.output[0] for ours, other in pairs}
    nodes = [
        *_reference_nodes(reference, set(theirs.values())),
        *_candidate_nodes(candidate, theirs),
        *_switch_nodes(pairs),
    ]
    model = onnx.ModelProto(
        ir_version=max(reference.ir_version, candidate.ir_version),
        opset_import=candidate.opset_import,
    )
    graph = model.graph
    graph.name = "switched"
    graph.input.extend(reference.graph.input)
    graph.input.append(
        helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(pairs)])
    )
    graph.output.extend(reference.graph.output)
    graph.node.extend(_sorted(nodes))
    graph.initializer.extend(reference.graph.initializer)
    for weight in candidate.graph.initializer:
        graph.initializer.add().CopyFrom(weight)
        graph.initializer[-1].name = candidates_own(weight.name)
    graph.initializer.append(
        helper.make_tensor(
            "switches/sizes", TensorProto.INT64, [len(pairs)], [1] * len(pairs)
        )
    )
    return model


def _reference_nodes(
    reference: onnx.ModelProto, switched: set[str]
) -> list[onnx.NodeProto]:
    """Return the reference's nodes, with the outputs that are switched renamed."""
    return [
        _renamed(node, node.name, outputs={name: _OURS + name for name in switched})
        for node in reference.graph.node
    ]


def _candidate_nodes(
    candidate: onnx.ModelProto, theirs: Mapping[str, str]
) -> list[onnx.NodeProto]:
    """Return the candidate's nodes; they read switched tensors, cast to their own type."""
    given = {value.name for value in candidate.graph.input}
    own = {
        name: name if name in given else candidates_own(name) for name in _names(candidate)
    }
    read = own | {name: _GIVEN + name for name in theirs}
    nodes = [
        _renamed(node, candidates_own(node.name), inputs=read, outputs=own)
        for node in candidate.graph.node
    ]
    nodes += [
        helper.make_node("CastLike", [ours, candidates_own(name)], [_GIVEN + name])
        for name, ours in theirs.items()
    ]
    return nodes


def _switch_nodes(
    pairs: Sequence[tuple[onnx.NodeProto, onnx.NodeProto]],
) -> list[onnx.NodeProto]:
    places = [f"switches/{number}" for number in range(len(pairs))]
    nodes = [helper.make_node("Split", [SWITCHES, "switches/sizes"], places, axis=0)]
    for place, (ours, theirs) in zip(places, pairs, strict=True):
        tensor, other = ours.output[0], candidates_own(theirs.output[0])
        rounded, single = f"{other}/rounded", f"{other}/float32"
        nodes += [
            *identities(other, rounded),
            helper.make_node("CastLike", [rounded, _OURS + tensor], [single]),
            helper.make_node("Where", [place, single, _OURS + tensor], [tensor]),
        ]
    return nodes


def _renamed(
    node: onnx.NodeProto,
    name: str,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str],
) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = name
    del copy.metadata_props[:]
    copy.input[:] = [(inputs or {}).get(tensor, tensor) for tensor in node.input]
    copy.output[:] = [outputs.get(tensor, tensor) for tensor in node.output]
    return copy


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    tensors = {weight.name for weight in graph.initializer}
    tensors |= {name for node in graph.node for name in (*node.input, *node.output)}
    return tensors - {""}  # an optional input that is not given


def _sorted(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes sorted so that inputs come first, as ONNX requires."""
    maker = {name: number for number, node in enumerate(nodes) for name in node.output}
    needs = {
        number: [maker[name] for name in node.input if name in maker]
        for number, node in enumerate(nodes)
    }
    return [nodes[number] for number in TopologicalSorter(needs).static_order()]
