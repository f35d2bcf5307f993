"""The end of the graph, which keeps float32 in every precision: unit norm and detector."""

import onnx

from isogon.errors import UsageError


def ending(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the nodes from the embedding's normalisation on.

    That is whatever depends on the vector that is divided by its norm to become
    `embedding`; the division is what `isogon.networks.student.unit` exports to.

    Raises:
        UsageError: no division makes `embedding`; the graph is not one of ours.
    """
    nodes = model.graph.node
    made_by = {name: node for node in nodes for name in node.output}
    division = made_by.get("embedding")
    if division is None or division.op_type != "Div":
        found = "nothing" if division is None else f"the {division.op_type} {division.name}"
        raise UsageError(
            f"Expected an ONNX graph whose `embedding` a Div makes by unit norm, found "
            f"{found}. Export it again with `isogon export`."
        )
    reached, names = {division.input[0]}, set()
    for node in nodes:  # in an order in which inputs come first
        if reached.intersection(node.input):
            reached.update(node.output)
            names.add(node.name)
    return frozenset(names)
