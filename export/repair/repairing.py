"""Keep in float32 the few nodes that a lower precision harms, until the gate passes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from export.repair.sensitivity import Sensitivity, sensitivities
from isogon.progress import Progress
from isogon.runtimes import Pixels

ROUNDS = 12
_LARGEST_SHARE = 0.5  # of the converted nodes may stay in float32
Convert = Callable[[frozenset[str]], onnx.ModelProto]
Accepted = Callable[[onnx.ModelProto], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairRound:
    """One try, and whether the gate accepted it."""

    harmful: int  # how many of the most harmful nodes were kept
    keep: frozenset[str]  # those, and the nodes that round their inputs
    accepted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """The converted graph that passed, or the last that did not, and the tries.

    Truthy only if the gate accepted `model`.
    """

    model: onnx.ModelProto
    unrepaired: onnx.ModelProto  # with nothing kept, to measure the repair's cost
    accepted: bool
    keep: frozenset[str]  # names of the nodes kept in float32
    harmful: tuple[Sensitivity, ...]  # nodes chosen for their harm, worst first
    converted: int  # nodes that are not float32 before any is kept
    rounds: tuple[RepairRound, ...]
    reason: str  # why it stopped

    def __bool__(self) -> bool:
        return self.accepted

    @property
    def size_cost(self) -> float:
        """Bytes of the repaired graph / bytes of the unrepaired one."""
        return float(self.model.ByteSize() / self.unrepaired.ByteSize())


def repaired(
    convert: Convert,
    accepted: Accepted,
    reference: onnx.ModelProto,
    pixels: Pixels,
    *,
    progress: Progress,
    rounds: int = ROUNDS,
) -> Repair:
    """Convert, keeping more and more of the most harmful nodes in float32 until it passes.

    Nodes are ranked once, by what each alone does to the outputs (`sensitivities`). All
    whose outputs are not finite are kept from the start, and 1, 2, 4, 8 … others. Then
    bisection between the last number that failed and the one that passed finds a smaller
    one. Nodes that round the inputs of a kept one are kept too (`_with_rounders`). At
    most half of the converted nodes are kept. The same input gives the same result.

    Args:
        convert: returns the converted graph in which the named nodes stay float32.
        accepted: the gate; returns something truthy if the graph passes.
        reference: the float32 graph.
        pixels: a few real images to rank on; all go through the graph in one batch.
        progress: where to show progress.
        rounds: at most so many tries, the first included; a try may convert repeatedly.

    Raises:
        CheckFailedError: the converted graph has none of the reference's nodes.
    """
    names = frozenset(node.name for node in reference.graph.node)
    trials = _Trials(names=names, convert=convert, accepted=accepted, ranking=[], rounds=[])
    plain = trials.model(0)
    if trials.passed:
        return trials.result(plain, plain, "It passes with nothing kept.")
    ranking = sensitivities(reference, plain, pixels, progress)
    broken = sum(node.breaks for node in ranking)
    most = int(_LARGEST_SHARE * len(ranking))
    trials.ranking.extend(ranking)
    model, failed = plain, 0
    task = progress.add_task("Repairing", total=rounds, completed=1)
    for count in _growing(broken, most):
        if len(trials.rounds) == rounds:
            return trials.result(model, plain, f"It gave up after {rounds} tries.")
        model = trials.model(count)
        progress.advance(task)
        if trials.passed:
            break
        failed = count
        if trials.too_many(trials.rounds[-1].keep):
            break
    if not trials.passed:
        return trials.result(
            model,
            plain,
            f"It gave up: the outputs of {broken} of {len(ranking)} converted nodes are "
            f"not finite, and half of the nodes in float32, the most that it keeps, is "
            "not enough. This precision does not suit this model.",
        )
    passing, failed = trials.rounds[-1].harmful, max(failed, broken - 1)
    while passing - failed > 1 and len(trials.rounds) < rounds:
        count = (passing + failed) // 2
        attempt = trials.model(count)
        progress.advance(task)
        if trials.passed:
            model, passing = attempt, count
        else:
            failed = count
    progress.update(task, completed=rounds)
    return trials.result(model, plain, "It passes with these nodes kept in float32.")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trials:
    """The tries so far; makes the next."""

    names: frozenset[str]  # of the reference's nodes
    convert: Convert
    accepted: Accepted
    ranking: list[Sensitivity]
    rounds: list[RepairRound]

    def model(self, count: int) -> onnx.ModelProto:
        """Convert with the `count` most harmful nodes kept, and ask the gate."""
        keep = frozenset(node.name for node in self.ranking[:count])
        model = self.convert(keep)
        while not keep >= (wider := _with_rounders(model, keep) & self.names):
            keep = wider
            model = self.convert(keep)
        passed = not self.too_many(keep) and bool(self.accepted(model))
        self.rounds.append(RepairRound(harmful=count, keep=keep, accepted=passed))
        return model

    def too_many(self, keep: frozenset[str]) -> bool:
        """Whether more than half of the converted nodes are kept."""
        return len(keep) > _LARGEST_SHARE * len(self.ranking)

    @property
    def passed(self) -> bool:
        return self.rounds[-1].accepted

    def result(self, model: onnx.ModelProto, plain: onnx.ModelProto, reason: str) -> Repair:
        """Return the smallest that passed, or the last tried."""
        passed = [turn for turn in self.rounds if turn.accepted]
        chosen = min(passed, key=lambda turn: turn.harmful) if passed else self.rounds[-1]
        return Repair(
            model=model,
            unrepaired=plain,
            accepted=chosen.accepted,
            keep=chosen.keep,
            harmful=tuple(self.ranking[: chosen.harmful]),
            converted=len(self.ranking),
            rounds=tuple(self.rounds),
            reason=reason,
        )


def _growing(broken: int, most: int) -> Iterator[int]:
    """Yield how many nodes to keep: the broken ones (if any), then 1, 2, 4, 8 … more."""
    count, step = broken or 1, 1
    while count < most:
        yield count
        count, step = broken + step * (1 if broken else 2), step * 2
    if broken <= most:
        yield most


def _with_rounders(model: onnx.ModelProto, keep: frozenset[str]) -> frozenset[str]:
    """Return `keep` and the nodes that cause the inputs of its nodes to be rounded.

    A quantiser rounds a tensor (Q/DQ) once, if its maker or one of its readers is int8.
    So a kept node reads a rounded tensor until these nodes are kept too.

    Args:
        model: converted with `keep`.
        keep: names of nodes.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    wanted: set[str] = set()
    for node in model.graph.node:
        if node.name in keep:
            wanted |= {_rounded_from(name, makers) or "" for name in node.input} - {""}
    rounders = {makers[tensor].name for tensor in wanted if tensor in makers}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and any(
            _rounded_from(name, makers) in wanted for name in node.input
        ):
            rounders.add(node.name)
    return keep | rounders


def _rounded_from(name: str, makers: dict[str, onnx.NodeProto]) -> str | None:
    """Return the tensor that `name` is rounded from; None if it is not rounded."""
    back = makers.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    there = makers.get(back.input[0])
    if there is None or there.op_type != "QuantizeLinear":
        return None  # a weight, stored as int8
    return str(there.input[0])
