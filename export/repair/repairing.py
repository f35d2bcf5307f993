"""Keep in float32 the few nodes that a lower precision harms, until the gate passes."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from export.onnx.int8 import ROUNDING
from export.onnx.reading import rounded_from
from export.repair.sensitivity import Sensitivity, sensitivities
from export.repair.work import work_of_nodes
from isogon.progress import Progress
from isogon.runtimes import Pixels

ROUNDS = 12
_LARGEST_SHARE = 0.5  # of the converted nodes' work may stay in float32
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
    kept_work: float  # share of their multiply-adds, nearly, that stays in float32
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

    Nodes are ranked once, by what each alone does to the outputs (`sensitivities`) in
    relation to the work of keeping it (`_by_worth`). All whose outputs are not finite are
    kept from the start, and 1, 2, 4, 8 … others. Then bisection between the last number
    that failed and the one that passed finds a smaller one. The nodes that round the
    inputs of a kept one are kept too (`_with_rounders`). At most half of the work of the
    converted nodes (`work_of_nodes`) stays in float32. The same input gives the same
    result.

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
    trials = _Trials(
        names=names, convert=convert, accepted=accepted, ranking=[], work={}, rounds=[]
    )
    plain = trials.model(0)
    if trials.passed:
        return trials.result(plain, plain, "It passes with nothing kept.")
    work = work_of_nodes(reference, pixels)
    ranking = _by_worth(sensitivities(reference, plain, pixels, progress), plain, work)
    trials.ranking.extend(ranking)
    trials.work.update({node.name: work[node.name] for node in ranking})
    broken = sum(node.breaks for node in ranking)
    model, failed = plain, max(0, broken - 1)
    enough: int | None = None  # the least number that passes or is too much
    numbers = _growing(broken, trials.most())
    task = progress.add_task("Repairing", total=rounds, completed=1)
    while len(trials.rounds) < rounds:
        if enough is None:
            count = next(numbers, None)
        else:
            count = (enough + failed) // 2 if enough - failed > 1 else None
        if count is None:
            break
        attempt = trials.model(count)
        progress.advance(task)
        if trials.passed or trials.too_many(trials.rounds[-1].keep):
            enough = count
        else:
            failed = count
        if trials.passed or not (enough == count or trials.any_passed):
            model = attempt
    progress.update(task, completed=rounds)
    if trials.any_passed:
        reason = "It passes with these nodes kept in float32."
    elif enough is None and len(trials.rounds) == rounds:
        reason = f"It gave up after {rounds} tries."
    else:
        reason = (
            f"It gave up: the outputs of {broken} of {len(ranking)} converted nodes are "
            f"not finite, and half of the work in float32, the most that it keeps, is "
            "not enough. This precision does not suit this model."
        )
    return trials.result(model, plain, reason)


def _by_worth(
    ranking: list[Sensitivity], plain: onnx.ModelProto, work: Mapping[str, int]
) -> list[Sensitivity]:
    """Return the nodes that break the outputs, then those whose keeping pays most first.

    Errors of different nodes are nearly independent, so their squares add up: a node is
    worth its squared effect for each unit of work, that of what rounds its inputs
    included. The whole of a depthwise Conv costs less than a pointwise one's tenth.
    """
    makers = {name: node for node in plain.graph.node for name in node.output}
    readers = {node.name: node for node in plain.graph.node}

    def worth(node: Sensitivity) -> float:
        if node.breaks or node.effect is None:
            return node.rank
        sources = {rounded_from(name, makers) or "" for name in readers[node.name].input}
        rounders = {makers[name].name for name in sources & makers.keys()}
        rounders = {name for name in rounders if readers[name].op_type in ROUNDING}
        return node.effect**2 / sum(work.get(name, 0) for name in {node.name, *rounders})

    return sorted(ranking, key=worth, reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trials:
    """The tries so far; makes the next."""

    names: frozenset[str]  # of the reference's nodes
    convert: Convert
    accepted: Accepted
    ranking: list[Sensitivity]
    work: dict[str, int]  # of the converted nodes
    rounds: list[RepairRound]

    def model(self, count: int) -> onnx.ModelProto:
        """Convert with the `count` most harmful nodes kept, and ask the gate."""
        keep = frozenset(node.name for node in self.ranking[:count])
        model = self.convert(keep)
        wider = _with_rounders(model, keep) & self.names
        if wider > keep:
            keep, model = wider, self.convert(wider)
        passed = not self.too_many(keep) and bool(self.accepted(model))
        self.rounds.append(RepairRound(harmful=count, keep=keep, accepted=passed))
        return model

    def most(self) -> int:
        """Return how many of the most harmful nodes have half of the work, at most."""
        names = [node.name for node in self.ranking]
        counts = range(len(names) + 1)
        return max(count for count in counts if not self.too_many(names[:count]))

    def too_many(self, keep: Collection[str]) -> bool:
        """Whether more than half of the work of the converted nodes is kept."""
        return self.share(keep) > _LARGEST_SHARE

    def share(self, keep: Collection[str]) -> float:
        """Return the share of the converted nodes' work that these nodes have."""
        kept = sum(self.work.get(name, 0) for name in keep)
        return kept / max(1, sum(self.work.values()))

    @property
    def passed(self) -> bool:
        return self.rounds[-1].accepted

    @property
    def any_passed(self) -> bool:
        return any(turn.accepted for turn in self.rounds)

    def result(self, model: onnx.ModelProto, plain: onnx.ModelProto, reason: str) -> Repair:
        """Return the smallest that passed, or the last that is not too much."""
        allowed = [turn for turn in self.rounds if not self.too_many(turn.keep)]
        passed = [turn for turn in allowed if turn.accepted]
        chosen = min(passed, key=lambda turn: turn.harmful) if passed else allowed[-1]
        return Repair(
            model=model,
            unrepaired=plain,
            accepted=chosen.accepted,
            keep=chosen.keep,
            harmful=tuple(self.ranking[: chosen.harmful]),
            converted=len(self.ranking),
            kept_work=self.share(chosen.keep),
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
    """Return `keep` and the int8 nodes that round the inputs of its nodes.

    What these read themselves may be rounded: they are not the harmful ones.

    Args:
        model: converted with `keep`; its nodes read what is not rounded where they can.
        keep: names of nodes.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    read = [name for node in model.graph.node if node.name in keep for name in node.input]
    rounded = {rounded_from(name, makers) for name in read} - {None}
    return keep | {makers[tensor].name for tensor in rounded if tensor in makers}
