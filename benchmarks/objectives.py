"""Compare every objective on the same budget, from two starts.

    python benchmarks/objectives.py --jobs 2 > benchmarks/results/objectives-cpu.md

The student is tf_efficientnet_lite0 with ImageNet weights, the teacher
tf_efficientnet_lite2; both come in packages, and the images are those of `image_sets.py`.
Each objective is trained from the closed-form start and from a random embedding layer,
with the recipe's defaults except the learning rate: from one grid, the rate with the
largest mean overlap@10 on validation images of `--choose-on` is taken. LightlyTrain is a
separate program with its own objective, views and optimiser, on the same images, batches
and steps; its rate comes from the same grid or is its default.

Every trial is a process and is not repeated; see `trials.py`.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from conditions import conditions
from trials import (
    STUDENT,
    TEACHER,
    Ground,
    Row,
    Trial,
    add_choices,
    heading,
    least,
    line,
    parsed,
    parser_of,
    run_all,
)

Start = Literal["closed-form", "random"]
_TOKENS = {"features": "tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One variant: its `[[objective]]` tables, and whether it needs patch tokens."""

    objective: tuple[dict[str, Any], ...]
    cells: bool = False


CONTENDERS = {
    "isogon": Variant(objective=({"name": "isogon"},)),
    "isogon with cells": Variant(objective=({"name": "isogon"},), cells=True),
    "cosine": Variant(objective=({"name": "cosine"},)),
    "RKD": Variant(objective=({"name": "rkd"},)),
    "Proteus": Variant(objective=({"name": "proteus"},), cells=True),
    "CosPress": Variant(objective=({"name": "cospress"},), cells=True),
    "VkD": Variant(objective=({"name": "vkd"},), cells=True),
    "queue": Variant(objective=({"name": "queue"},), cells=True),
    "KD (labels)": Variant(objective=({"name": "kd"},)),
    "KD++ (labels)": Variant(objective=({"name": "kd"}, {"name": "nd"})),
    "CoSS": Variant(objective=({"name": "coss"},)),
    "CoSS, neighbour batches": Variant(
        objective=({"name": "coss", "batches": "neighbours"},)
    ),
}
LIGHTLY = "LightlyTrain"
STARTS: tuple[Start, ...] = ("closed-form", "random")
RATES = (3e-4, 1e-3, 3e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A row of the table: an objective and where it starts; LightlyTrain has no start."""

    name: str
    start: Start | None

    @property
    def label(self) -> str:
        """The row's name."""
        return self.name if self.start is None else f"{self.name}, {self.start} start"

    def trial(
        self, place: str, rate: float | None, options: argparse.Namespace, **more: Any
    ) -> Trial:
        """Return a trial of it; the rate None is LightlyTrain's own."""
        train: dict[str, Any] = {} if rate is None else {"learning_rate": rate}
        if options.steps is not None:
            train["steps"] = options.steps
        label = f"{self.label} {'own' if rate is None else f'{rate:g}'}"
        if self.start is None:
            return Trial(row=label, place=place, kind="lightly-train", train=train, **more)
        if self.start == "random":
            train["layer_rate"] = 1.0  # a new layer learns at the full rate
        contender = CONTENDERS[self.name]
        return Trial(
            row=label,
            place=place,
            objective=contender.objective,
            start=self.start,
            teacher=_TOKENS if contender.cells else {},
            train=train,
            **more,
        )


def entries(options: argparse.Namespace) -> Iterator[Entry]:
    """Yield the rows that are asked for."""
    for name in options.objectives:
        for start in [None] if name == LIGHTLY else options.starts:
            yield Entry(name=name, start=start)


def rates_of(entry: Entry, options: argparse.Namespace) -> list[float | None]:
    """Return the learning rates that an entry chooses from."""
    return [*options.rates, *([None] if entry.start is None else [])]


def choosing(entry: Entry, rate: float | None, options: argparse.Namespace) -> list[Trial]:
    """Return the trials on validation images that rate a learning rate."""
    return [
        entry.trial(place, rate, options, phase="choosing") for place in options.choose_on
    ]


def chosen(
    entry: Entry, ground: Ground, options: argparse.Namespace
) -> tuple[bool, float | None]:
    """Return whether all rates have been tried, and the best of those that were."""
    rates = rates_of(entry, options)
    if len(rates) == 1:
        return True, rates[0]
    found = {rate: Row.of(choosing(entry, rate, options), ground) for rate in rates}
    complete = all(len(row.outcomes) == len(options.choose_on) for row in found.values())
    overlaps = {rate: row.mean("overlap") for rate, row in found.items()}
    best = max(rates, key=lambda rate: np.nan_to_num(overlaps[rate], nan=-1.0))
    return complete, best


def before(place: str) -> dict[str, Trial]:
    """Return the rows without an objective."""
    return {
        "undistilled": Trial(row="undistilled", place=place, kind="undistilled"),
        "closed-form start": Trial(
            row="closed-form start", place=place, start="closed-form", train={"epochs": 0}
        ),
    }


def final(
    entry: Entry, place: str, rate: float | None, options: argparse.Namespace
) -> list[Trial]:
    """Return an entry's trials for the table."""
    return [entry.trial(place, rate, options, seed=seed) for seed in options.seeds]


def run(ground: Ground, options: argparse.Namespace) -> None:
    """Run missing trials: first those that choose the rates, then those of the table."""
    wanted = list(entries(options))
    run_all(
        (
            trial
            for entry in wanted
            if len(rates_of(entry, options)) > 1
            for rate in rates_of(entry, options)
            for trial in choosing(entry, rate, options)
        ),
        ground,
        options.jobs,
    )
    trials = [one for place in options.sets for one in before(place).values()]
    for entry in wanted:
        complete, rate = chosen(entry, ground, options)
        if complete:
            trials += [
                one for place in options.sets for one in final(entry, place, rate, options)
            ]
        else:
            print(f"{entry.label}: a learning rate has failed", file=sys.stderr)
    run_all(trials, ground, options.jobs)


def page(ground: Ground, options: argparse.Namespace) -> str:
    """Return a table for each set, the rows in the order of their overlap."""
    lines = []
    for place in options.sets:
        lines += [f"\n## {place}\n", *heading("", "rate", "steps", "s/step", "MiB")]
        for label, trial in before(place).items():
            row = Row.of([trial], ground)
            if label == "undistilled":
                lines.append(
                    line(
                        "teacher",
                        row.teachers,
                        "",
                        "",
                        "",
                        "",
                        blank=("distortion", "overlap"),
                    )
                )
            lines.append(line(label, row, "", "", "", ""))
        found = []
        for entry in entries(options):
            _, rate = chosen(entry, ground, options)
            row = Row.of(final(entry, place, rate, options), ground)
            if row.outcomes:
                shown = line(
                    entry.label,
                    row,
                    "own" if rate is None else f"{rate:g}",
                    least(row, lambda one: one.steps),
                    least(row, lambda one: one.seconds_per_step, 3),
                    least(row, lambda one: one.peak_mib),
                )
                found.append((row.mean("overlap"), shown))
        lines += [shown for _, shown in sorted(found, reverse=True)]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = parser_of(__doc__)
    add_choices(parser)
    parser.add_argument("--objectives", nargs="+", default=[*CONTENDERS, LIGHTLY])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument(
        "--choose-on",
        nargs="+",
        metavar="SET-SIZE",
        help="where a learning rate is chosen; default: all of --sets",
    )
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    options, ground = parsed(parser)
    options.choose_on = options.choose_on or options.sets
    unknown = set(options.objectives) - {*CONTENDERS, LIGHTLY}
    if unknown:
        parser.error(f"expected objectives of {[*CONTENDERS, LIGHTLY]}, got {unknown}")
    heading_line = conditions()
    if not options.table_only:
        run(ground, options)
    print(
        f"# Every objective on the same budget\n\n{heading_line}\n\nStudent {STUDENT[0]} "
        f"from ImageNet weights, {ground.width} wide, at the pixels of the heading; "
        f"teacher {TEACHER[0]} at {ground.teacher_size} pixels. Learning rates of "
        f"{', '.join(f'{rate:g}' for rate in options.rates)} by overlap@10 on validation "
        f"images of {', '.join(options.choose_on)}. Means over seeds "
        f"{', '.join(map(str, options.seeds))}, ± standard deviation; at most "
        f"{ground.bank:,} references; OOD by the default detector; s/step and MiB are the "
        f"least."
    )
    print(page(ground, options))


if __name__ == "__main__":
    main()
