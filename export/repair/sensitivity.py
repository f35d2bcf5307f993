"""How much each node alone spoils, which says which to keep in float32 first."""

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Bool

from export.divergence.compare import BATCH, Difference
from export.divergence.tensors import Tensors, as_stored, exposing, groups, open_session
from export.onnx.reading import module_of, precision_of
from export.repair.switches import SWITCHES, candidates_own, switchable, switched_model
from isogon.errors import CheckFailedError
from isogon.progress import Progress
from isogon.runtimes import Pixels

# Nodes whose effect on the outputs is measured, a run of both graphs each.
_MEASURED = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What one node of the candidate does to exact inputs, and to the outputs.

    Both are relative errors, infinite where something is not finite.
    """

    name: str
    op_type: str
    module: str
    own_error: float  # of its output, given the reference's inputs
    effect: float | None  # on the worst output, were it alone converted; None: not run

    @property
    def breaks(self) -> bool:
        """Whether it makes what is not finite."""
        return math.isinf(self.own_error) or self.effect == math.inf

    @property
    def rank(self) -> float:
        """The larger, the more harmful."""
        if self.breaks:
            return math.inf
        return -1.0 if self.effect is None else self.effect


def sensitivities(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    pixels: Pixels,
    progress: Progress,
) -> list[Sensitivity]:
    """Return the nodes that the candidate computes otherwise, the most harmful first.

    Every node gets the reference's inputs, so its error is not its predecessors'. The
    96 with the largest own error are then tried one by one: how far do the outputs move
    if nothing but this node is converted? In this order they come; the others behind them.

    Raises:
        CheckFailedError: the graphs have no node in common.
    """
    if precision_of(candidate) == "fp16":
        candidate = as_stored(candidate)
    pairs = switchable(reference, candidate)
    if not pairs:
        raise CheckFailedError(
            "The converted graph has no node of the reference's name, so no node can be "
            "kept in float32. Convert the float32 graph of this bundle."
        )
    model = switched_model(reference, candidate, pairs)
    own = _own_errors(reference, model, pairs, pixels, progress)
    converted = [number for number in range(len(pairs)) if own[number] > 0]
    converted.sort(key=lambda number: -own[number])
    effects = _effects(model, converted[:_MEASURED], len(pairs), pixels, progress)
    found = [
        Sensitivity(
            name=pairs[number][0].name,
            op_type=pairs[number][0].op_type,
            module=module_of(pairs[number][0]),
            own_error=own[number],
            effect=effects.get(number),
        )
        for number in converted
    ]
    return sorted(found, key=lambda node: -node.rank)


def _own_errors(
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    pairs: list[tuple[onnx.NodeProto, onnx.NodeProto]],
    pixels: Pixels,
    progress: Progress,
) -> list[float]:
    """Return the error of each node's output, given the reference's inputs."""
    theirs = {ours.output[0]: candidates_own(other.output[0]) for ours, other in pairs}
    off = np.zeros(len(pairs), dtype=bool)
    found = {name: Difference() for name in theirs}
    task = progress.add_task("Measuring each node's own error", total=len(theirs))
    for names in groups(reference, list(theirs), BATCH):
        exposed = [*names, *(theirs[name] for name in names)]
        session = open_session(exposing(model, exposed), fused=False)
        for start in range(0, len(pixels), BATCH):
            tensors = _run(session, exposed, pixels[start : start + BATCH], off)
            for name in names:
                found[name].add(tensors[name], tensors[theirs[name]])
        progress.advance(task, len(names))
    return [difference.error for difference in found.values()]


def _effects(
    model: onnx.ModelProto,
    numbers: list[int],
    count: int,
    pixels: Pixels,
    progress: Progress,
) -> dict[int, float]:
    """Return by how much the worst output moves if one node alone is converted."""
    names = [value.name for value in model.graph.output]
    session = open_session(model, fused=False)
    switches = np.zeros(count, dtype=bool)
    expected = _run(session, names, pixels, switches)
    effects = {}
    for number in progress.track(numbers, description="Trying each node alone"):
        switches[number] = True
        tensors = _run(session, names, pixels, switches)
        switches[number] = False
        errors = []
        for name in names:
            difference = Difference()
            difference.add(expected[name], tensors[name])
            errors.append(difference.error)
        effects[number] = max(errors)
    return effects


def _run(
    session: onnxruntime.InferenceSession,
    names: list[str],
    pixels: Pixels,
    switches: Bool[np.ndarray, " pairs"],
) -> Tensors:
    given = {"images": pixels, SWITCHES: switches}
    return dict(zip(names, session.run(names, given), strict=True))
