"""Is distilling worth it with the defaults? Several sets, compared with goals.

    python benchmarks/defaults.py --jobs 1 > benchmarks/results/defaults-cpu.md

Recipes set nothing in [train] except the seed and the loader's processes, like those of
`isogon distill --images ... --teacher ... --student ... --width ... --size ...`. The
student is compared with the teacher, the student's network undistilled (its unit pooled
vectors by uncentred PCA at the same width) and the closed-form start (`epochs = 0`). A
missed goal is bold. Times are valid for `--jobs 1` on an idle machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass

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

_KNN_AT_TINY, _OVERLAP_AT_TINY = 0.55, 0.38
_MIB = 3 * 1024  # at most, at 128 pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A figure to reach."""

    what: str
    found: float
    bound: float
    least: bool = True  # whether the bound is a minimum; else a maximum

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        text = f"{self.what} {self.found:.3f} {sign} {self.bound:.3f}"
        return text if self.reached else f"**{text}**"

    @property
    def reached(self) -> bool:
        """Whether it is reached; False if it was not measured."""
        return self.found >= self.bound if self.least else self.found <= self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is compared on one set."""

    undistilled: Row
    start: Row
    student: Row

    @classmethod
    def of(cls, place: str, seeds: Iterable[int], ground: Ground) -> "Rows":
        """Return the trials that are done."""
        undistilled, start, student = trials(place, seeds)
        return cls(
            undistilled=Row.of([undistilled], ground),
            start=Row.of([start], ground),
            student=Row.of(student, ground),
        )


def trials(place: str, seeds: Iterable[int]) -> tuple[Trial, Trial, list[Trial]]:
    """Return the undistilled network, the start alone, and the student of each seed."""
    return (
        Trial(row="undistilled", place=place, kind="undistilled"),
        Trial(row="epochs = 0", place=place, train={"epochs": 0}),
        [Trial(row="student", place=place, seed=seed) for seed in seeds],
    )


def goals_of_student(place: str, rows: Rows) -> list[Goal]:
    """Return the goals of the student with the defaults."""
    was, now = rows.undistilled, rows.student
    goals = [
        Goal(
            what="overlap",
            found=now.mean("overlap") - was.mean("overlap"),
            bound=0.08,
        ),
        Goal(
            what="distortion",
            found=now.mean("distortion") / was.mean("distortion"),
            bound=0.8,
            least=False,
        ),
    ]
    if was.teachers.mean("knn") >= was.mean("knn"):
        goals.append(Goal(what="kNN", found=now.mean("knn") - was.mean("knn"), bound=0.015))
    goals += [
        Goal(what=kind, found=now.mean(kind) - was.mean(kind), bound=-0.005)
        for kind in ("near", "far")
    ]
    if place == "tiny-64":
        overlap, knn = now.mean("overlap"), now.mean("knn")
        goals.append(Goal(what="overlap", found=overlap, bound=_OVERLAP_AT_TINY))
        goals.append(Goal(what="kNN", found=knn, bound=_KNN_AT_TINY))
        minutes = min(now.values(lambda one: one.seconds), default=float("nan")) / 60
        goals.append(Goal(what="minutes", found=minutes, bound=15, least=False))
    if place.endswith("-128"):
        mib = min(now.values(lambda one: one.peak_mib), default=float("nan"))
        goals.append(Goal(what="MiB", found=mib, bound=_MIB, least=False))
    return goals


def goals_of_start(rows: Rows) -> list[Goal]:
    """Return the goals of the closed form alone."""
    was, now = rows.undistilled, rows.start
    minutes = min(now.values(lambda one: one.seconds), default=float("nan")) / 60
    return [
        Goal(
            what="overlap",
            found=now.mean("overlap") - was.mean("overlap"),
            bound=0.04,
        ),
        Goal(
            what="distortion",
            found=now.mean("distortion"),
            bound=was.mean("distortion"),
            least=False,
        ),
        Goal(what="minutes", found=minutes, bound=2, least=False),
    ]


def goals_of_half(half: Rows, whole: Rows) -> list[Goal]:
    """Return the goals of a student at half the side of the undistilled network."""
    return [
        Goal(
            what=name,
            found=half.student.mean(figure),
            bound=whole.undistilled.mean(figure),
        )
        for name, figure in (("overlap", "overlap"), ("kNN", "knn"))
    ]


def section(place: str, found: dict[str, Rows]) -> str:
    """Return the table of a set and its goals."""
    rows = found[place]
    shown = {
        "undistilled": rows.undistilled,
        "`epochs = 0`": rows.start,
        "student": rows.student,
    }
    blank = ("distortion", "overlap")
    lines = [
        f"\n## {place}\n",
        *heading("", "seconds", "MiB", "peaks over the run"),
        line("teacher", rows.undistilled.teachers, "", "", "", blank=blank),
    ]
    for name, row in shown.items():
        peaks = [one.memory for one in row.outcomes if one.memory][:1]
        lines.append(
            line(
                name,
                row,
                least(row, lambda one: one.seconds),
                least(row, lambda one: one.peak_mib),
                " ".join(f"{peak:.0f}" for each in peaks for peak in each),
            )
        )
    told = {
        "The student against the undistilled network": goals_of_student(place, rows),
        "`epochs = 0`": goals_of_start(rows),
    }
    name, _, size = place.partition("-")
    whole = found.get(f"{name}-{2 * int(size)}")
    if whole is not None:
        told[f"The student against the undistilled network at {2 * int(size)} pixels"] = (
            goals_of_half(rows, whole)
        )
    lines += [f"\n{what}: {'; '.join(map(str, goals))}." for what, goals in told.items()]
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print a table for each set."""
    parser = parser_of(__doc__)
    add_choices(parser)
    options, ground = parsed(parser)
    heading_line = conditions()
    if not options.table_only:
        # Seed by seed, so that an early page already has every set.
        undone = [one for place in options.sets for one in trials(place, [])[:2]]
        undone += [
            one
            for seed in options.seeds
            for place in options.sets
            for one in trials(place, [seed])[2]
        ]
        run_all(undone, ground, options.jobs)
    found = {place: Rows.of(place, options.seeds, ground) for place in options.sets}
    print(
        f"# Distilling with the defaults\n\n{heading_line}\n\nStudent {STUDENT[0]} from "
        f"ImageNet weights, {ground.width} wide, at the pixels of the heading; teacher "
        f"{TEACHER[0]} at {ground.teacher_size}. Seeds "
        f"{', '.join(map(str, options.seeds))}; seconds and MiB are the least."
    )
    print("\n".join(section(place, found) for place in options.sets))


if __name__ == "__main__":
    main()
