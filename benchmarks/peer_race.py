"""The trainer beside LightlyTrain's: the same images, networks, batches and steps.

Each length is a whole run of its own, since the schedule of the learning rate depends on
it. Seconds are those of all that a user waits for: the closed-form start, the teacher's
features and the steps here, set-up and the steps there, and neither's imports.
"""

from collections.abc import Sequence

from trials import Ground, Outcome, Row, Trial, run_all

CLAIM = 0.5  # of the peer's time to the same overlap
OURS, PEER = "Isogon", "LightlyTrain"


def trials(
    place: str, lengths: Sequence[int], rate: float | None
) -> dict[str, list[Trial]]:
    """Return the runs of both, the shortest first; ours begin with the start alone."""
    started = Trial(row=OURS, place=place, train={"epochs": 0})
    asked = {} if rate is None else {"learning_rate": rate}
    return {
        OURS: [
            started,
            *(Trial(row=OURS, place=place, train={"steps": steps}) for steps in lengths),
        ],
        PEER: [
            Trial(
                row=PEER, place=place, kind="lightly-train", train={"steps": steps} | asked
            )
            for steps in lengths
        ],
    }


def race(
    place: str, lengths: Sequence[int], rate: float | None, ground: Ground
) -> dict[str, list[Outcome]]:
    """Run what is missing, one after the other, and return what both found."""
    wanted = trials(place, lengths, rate)
    run_all((one for each in wanted.values() for one in each), ground, jobs=1)
    return {name: list(Row.of(each, ground).outcomes) for name, each in wanted.items()}


def section(place: str, found: dict[str, list[Outcome]], batch: int) -> str:
    """Return the table of both, and who is how much sooner at the same overlap."""
    lines = [
        f"\n## Beside LightlyTrain, on {place}\n",
        "| | steps | seconds in all | images/s | peak MiB | overlap@10 | kNN |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, outcomes in found.items():
        for one in outcomes:
            per_second = "" if not one.seconds_per_step else batch / one.seconds_per_step
            rate = f"{per_second:.1f}" if per_second else ""
            lines.append(
                f"| {name} | {one.steps} | {one.seconds or 0:.0f} | {rate} | "
                f"{one.peak_mib or 0:.0f} | {one.student.overlap:.3f} | "
                f"{one.student.knn:.3f} |"
            )
    return "\n".join([*lines, f"\n{verdict(found)}"])


def verdict(found: dict[str, list[Outcome]]) -> str:
    """Return how long both took to the most overlap that the peer reaches."""
    if not found[PEER]:
        return f"{PEER} did not run."
    best = max(found[PEER], key=lambda one: one.student.overlap)
    aim = best.student.overlap
    ours = [
        one.seconds
        for one in found[OURS]
        if one.seconds is not None and one.student.overlap >= aim
    ]
    theirs = best.seconds
    if not ours or theirs is None:
        return f"{PEER} reaches an overlap of {aim:.3f}, and {OURS} does not."
    ratio = min(ours) / theirs
    met = "" if ratio <= CLAIM else "not "
    return (
        f"{PEER} reaches an overlap of {aim:.3f} in {theirs:.0f} s, {OURS} at least "
        f"that in {min(ours):.0f} s: {ratio:.2f} of the time, which is {met}{CLAIM:g} or "
        f"less."
    )
