"""The metrics of several processes as those of one service."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_ADDED = ("counter", "histogram")
_LEAST = ("process_max_fds", "process_start_time_seconds")


@dataclass(frozen=True, slots=True, eq=False)  # a registry hashes it
class Summed(Collector):
    """Families of several processes, as a registry wants them."""

    families: tuple[Metric, ...]

    def collect(self) -> Iterator[Metric]:
        """Yield each family."""
        yield from self.families


def summed(processes: Iterable[Iterable[Metric]]) -> tuple[Metric, ...]:
    """Return the families of all processes as one.

    Counters, histograms and gauges are added; of what is 1 to carry labels (`…_info`)
    there stays one, and of the start and the limit of open files the least.
    """
    found: dict[str, Metric] = {}
    for families in processes:
        for family in families:
            if family.name in found:
                _add(found[family.name], family)
            else:
                found[family.name] = copy.copy(family)
    return tuple(found.values())


def kept(families: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return what outlives a process: its counters and histograms."""
    return tuple(family for family in families if family.type in _ADDED)


def _add(into: Metric, family: Metric) -> None:
    values = {_key(sample): sample for sample in into.samples}
    for sample in family.samples:
        known = values.get(_key(sample))
        if known is None:
            values[_key(sample)] = sample
        elif family.name.endswith("_info"):
            pass
        elif family.name in _LEAST:
            values[_key(sample)] = min(known, sample, key=lambda each: each.value)
        else:
            values[_key(sample)] = sample._replace(value=known.value + sample.value)
    into.samples = list(values.values())


def _key(sample: object) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))  # type: ignore[attr-defined]
