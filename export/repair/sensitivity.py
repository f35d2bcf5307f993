"""Rank nodes by the harm that each does alone: which to keep in float32 first."""

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Bool

from export.divergence.compare import BATCH, TensorDifference
from export.divergence.tensors import Tensors, as_stored, exposing, groups, open_session
from export.onnx.reading import module_of, precision_of
from export.repair.switches import SWITCHES, candidates_own, switchable, switched_model
from isogon.errors import CheckFailedError
from isogon.progress import Progress
from isogon.runtimes import Pixels

# Nodes whose effect on the outputs is measured; each takes a run of both graphs.
_MEASURED = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """The error of one converted node with exact inputs, and its effect on the outputs.

    Both are relative errors, infinite if something is not finite.
    """

    name: str
    op_type: str
    module: str
    own_error: float  # of its output, with the reference's inputs
    effect: float | None  # on the worst output, if it alone is converted; None: not run

    @property
    def breaks(self) -> bool:
        """Whether its output, or an output of the graph, is not finite."""
        return math.isinf(self.own_error) or self.effect == math.inf

    @property
    def rank(self) -> float:
        """Larger is more harmful."""
        if self.breaks:
            return math.inf
        return -1.0 if self.effect is None else self.effect


def sensitivities(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    pixels: Pixels,
    progress: Progress,
) -> list[Sensitivity]:
    """Return the nodes whose results the candidate changes, the most harmful first.

    Every node gets the reference's inputs, so its error is its own. The 96 with the
    largest own error are then converted one by one, and the change of the outputs is
    measured. They are sorted by this change; the others follow.

    Raises:
        CheckFailedError: the graphs have no node in common.
    """
    if precision_of(candidate) == "fp16":
        candidate = as_stored(candidate)
    pairs = switchable(reference, candidate)
    if not pairs:
        raise CheckFailedError(
            "The converted graph has no node with a name of the reference's, so no node "
            "can be kept in float32. Convert the float32 graph of this bundle."
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
    """Return the error of each node's output, with the reference's inputs."""
    theirs = {ours.output[0]: candidates_own(other.output[0]) for ours, other in pairs}
    off = np.zeros(len(pairs), dtype=bool)
    found = {name: TensorDifference() for name in theirs}
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
    """Return the error of the worst output if one node alone is converted."""
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
            difference = TensorDifference()
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
