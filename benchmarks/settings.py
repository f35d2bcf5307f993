"""The evidence for a pretrained student's defaults: one setting varied at a time.

    python benchmarks/settings.py --jobs 2 > benchmarks/results/settings-cpu.md

Each setting takes the values of a grid, with the recipe's defaults for the rest. All is
evaluated on validation images, a part of the training images, and on halves of the
unfamiliar sets that no other table uses. ● marks the default.
"""

import argparse
from typing import Any

import numpy as np
from conditions import conditions
from trials import (
    FIGURES,
    PLACES,
    STUDENT,
    TEACHER,
    Ground,
    Row,
    Trial,
    add_choices,
    least,
    parsed,
    parser_of,
    run_all,
    spread,
)

from distill import Recipe

# By table and key of the recipe.
GRID: dict[tuple[str, str], tuple[Any, ...]] = {
    ("train", "batch_statistics"): ("frozen", "re-estimated", "free"),
    ("train", "learning_rate"): (1e-4, 3e-4, 1e-3, 3e-3),
    ("train", "layer_rate"): (0.1, 0.3, 1.0),
    ("train", "layer_decay"): (1.0, 0.9, 0.8, 0.7),
    ("train", "ema_decay"): (None, 0.99, 0.998),
    ("train", "weight_decay"): (0.0, 0.05),
    ("train", "steps"): (300, 600, 1200, 2400),
    ("train", "batch_size"): (32, 64, 128),
    ("data", "scale"): ((0.9, 1.0), (0.5, 1.0), (0.25, 1.0), (0.08, 1.0)),
    ("teacher", "views"): (None, 1, 2, 4, 8),
}


def default_of(recipe: Recipe, table: str, key: str) -> Any:
    """Return a setting's default."""
    return getattr(getattr(recipe, table), key)


def values_of(
    table: str, key: str, options: argparse.Namespace, ground: Ground
) -> tuple[Any, ...]:
    """Return the grid of a setting; the default is added if missing."""
    recipe = ground.recipe(_trial(options.sets[0], {}, options))
    default = default_of(recipe, table, key)
    return GRID[table, key] if default in GRID[table, key] else (*GRID[table, key], default)


def trials(
    table: str, key: str, value: Any, options: argparse.Namespace, ground: Ground
) -> dict[str, list[Trial]]:
    """Return the trials of one value by set; the default's are those without it."""
    found = {}
    for place in options.sets:
        plain = _trial(place, {}, options)
        same = default_of(ground.recipe(plain), table, key) == value
        changed = {} if same else {table: {key: value}}
        found[place] = [
            _trial(place, changed, options, seed=seed) for seed in options.seeds
        ]
    return found


def _trial(
    place: str, changed: dict[str, Any], options: argparse.Namespace, seed: int = 0
) -> Trial:
    tables: dict[str, Any] = {
        name: dict(changed.get(name, {})) for name in ("train", "data")
    }
    tables["teacher"] = dict(changed.get("teacher", {}))
    if "views" in tables["teacher"]:
        tables["teacher"]["features"] = "embedding"  # as by default, where views count
    if options.steps is not None:
        tables["train"].setdefault("steps", options.steps)
    row = " ".join(
        f"{key}={value}" for each in changed.values() for key, value in each.items()
    )
    return Trial(row=row or "defaults", place=place, phase="choosing", seed=seed, **tables)


def section(table: str, key: str, ground: Ground, options: argparse.Namespace) -> str:
    """Return the table of one setting: means over the sets, and each set's overlap."""
    sets = [f"overlap, {place}" for place in options.sets]
    heads = [f"`{key}`", *FIGURES.values(), *sets, "s/step"]
    lines = [
        f"\n## `[{table}] {key}`\n",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for value in values_of(table, key, options, ground):
        wanted = trials(table, key, value, options, ground)
        rows = {place: Row.of(each, ground) for place, each in wanted.items()}
        if not any(row.outcomes for row in rows.values()):
            continue
        used = next(each[0] for each in wanted.values()).row == "defaults"
        cells = [f"{value}{' ●' if used else ''}"]
        for figure in FIGURES:
            means = [row.mean(figure) for row in rows.values()]
            cells.append("" if np.isnan(means).any() else f"{np.mean(means):.3f}")
        cells += [
            spread(row.values(lambda one: one.student.overlap)) for row in rows.values()
        ]
        cells.append(least(next(iter(rows.values())), lambda one: one.seconds_per_step, 3))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print a table for each setting."""
    parser = parser_of(__doc__)
    add_choices(parser, sets=[place for place in PLACES if place != "tiny-128"])
    parser.add_argument("--settings", nargs="+", default=[key for _, key in GRID])
    parser.add_argument("--steps", type=int, help="of all but its own row; the recipe's")
    options, ground = parsed(parser)
    wanted = [pair for pair in GRID if pair[1] in options.settings]
    if len(wanted) < len(options.settings):
        parser.error(f"expected settings of {[key for _, key in GRID]}")
    heading_line = conditions()
    if not options.table_only:
        undone = [
            trial
            for pair in wanted
            for value in values_of(*pair, options, ground)
            for each in trials(*pair, value, options, ground).values()
            for trial in each
        ]
        run_all(undone, ground, options.jobs)
    print(
        f"# The settings of a pretrained student\n\n{heading_line}\n\nStudent {STUDENT[0]} "
        f"from ImageNet weights, teacher {TEACHER[0]} at {ground.teacher_size} pixels; "
        f"means over {', '.join(options.sets)} and seeds "
        f"{', '.join(map(str, options.seeds))}, on validation images."
    )
    print("\n".join(section(*pair, ground, options) for pair in wanted))


if __name__ == "__main__":
    main()
