"""Repair: keep in float32 the few nodes that a lower precision spoils."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from export.repair.sensitivity import Sensitivity, sensitivities
from isogon.progress import Progress
from isogon.runtimes import Pixels


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


ROUNDS = 12
_LARGEST_SHARE = 0.5  # of the converted nodes; with more kept, the precision is another

Convert = Callable[[frozenset[str]], onnx.ModelProto]
Accepted = Callable[[onnx.ModelProto], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One try and what the gate said of it."""

    harmful: int  # how many of the most harmful nodes were kept
    keep: frozenset[str]  # those, and nodes that round what they read
    accepted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """The converted graph that passed, or the last that did not, and how it came about.

    Truthy only if the gate accepted `model`.
    """

    model: onnx.ModelProto
    unrepaired: onnx.ModelProto  # with nothing kept, for what the repair costs
    accepted: bool
    keep: frozenset[str]  # names of the nodes kept in float32
    harmful: tuple[Sensitivity, ...]  # those for whose sake, the most harmful first
    converted: int  # nodes that compute otherwise than in float32, before any was kept
    rounds: tuple[Round, ...]
    reason: str  # why it stopped here

    def __bool__(self) -> bool:
        return self.accepted

    @property
    def size_cost(self) -> float:
        """The bytes of the repaired graph over those of the unrepaired one."""
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
    """Convert, and keep in float32 ever more of the most harmful nodes until it passes.

    Nodes are ranked once, by what each alone does to the outputs (`sensitivities`). All
    that make what is not finite are kept from the start, and 1, 2, 4, 8 … others. Between
    the number that passes and the last that does not, halving finds a smaller one.
    Nodes that round what a kept one reads are kept as well (`with_rounders`), half of the
    converted nodes at most. The same input gives the same result.

    Args:
        convert: makes the converted graph in which the named nodes stay float32.
        accepted: the gate; what it returns is taken as true or false.
        reference: the float32 graph.
        pixels: a few real images to rank on; all go through the graph in one batch.
        progress: where to show progress.
        rounds: tries at most, the first included; a try may convert more than once.

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
            f"It gave up: of {len(ranking)} converted nodes {broken} make what is not "
            f"finite, and half of them in float32, the most that it keeps, would not be "
            "enough. This precision does not suit this model.",
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
    """The tries so far, and the next."""

    names: frozenset[str]  # of the reference's nodes
    convert: Convert
    accepted: Accepted
    ranking: list[Sensitivity]
    rounds: list[Round]

    def model(self, count: int) -> onnx.ModelProto:
        """Convert with the `count` most harmful nodes kept, and ask the gate."""
        keep = frozenset(node.name for node in self.ranking[:count])
        model = self.convert(keep)
        while not keep >= (wider := with_rounders(model, keep) & self.names):
            keep = wider
            model = self.convert(keep)
        passed = not self.too_many(keep) and bool(self.accepted(model))
        self.rounds.append(Round(harmful=count, keep=keep, accepted=passed))
        return model

    def too_many(self, keep: frozenset[str]) -> bool:
        """Whether so many are kept that this is another precision."""
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
    """Yield how many nodes to keep: the broken ones and 0 (if any), 1, 2, 4, 8 … more."""
    count, step = broken or 1, 1
    while count < most:
        yield count
        count, step = broken + step * (1 if broken else 2), step * 2
    if broken <= most:
        yield most
