"""The pace that is learned from runs and decodings."""

import random

import pytest

from serving.batching.measurement import Pace


def test_the_first_fit_is_exact_where_runs_are() -> None:
    pace = Pace.fitted({size: 0.003 + 0.002 * size for size in (1, 2, 4, 8)})
    assert pace.fixed == pytest.approx(0.003)
    assert pace.each == pytest.approx(0.002)


def test_both_parts_stay_positive_where_measurements_say_otherwise() -> None:
    for seconds in ({1: 0.001, 2: 0.004}, {1: 0.01, 2: 0.004}, {1: 0.002}):
        pace = Pace.fitted(seconds)
        assert pace.fixed > 0 and pace.each > 0


def test_runs_of_many_sizes_teach_both_parts() -> None:
    chance = random.Random(0)
    pace = Pace(fixed=0.001, each=0.001)
    for _ in range(5000):
        images = chance.choice([1, 2, 4, 8, 16])
        pace.learn_run(images, (0.010 + 0.0005 * images) * chance.uniform(0.9, 1.1))
    assert pace.fixed == pytest.approx(0.010, rel=0.15)
    assert pace.each == pytest.approx(0.0005, rel=0.15)


def test_runs_of_one_size_teach_the_level_and_keep_the_proportion() -> None:
    pace = Pace(fixed=0.004, each=0.001)
    for _ in range(500):
        pace.learn_run(4, 0.016)
    assert pace.run(4) == pytest.approx(0.016, rel=0.01)
    assert pace.fixed / pace.each == pytest.approx(4.0)


def test_one_slow_run_moves_little_and_is_forgotten() -> None:
    pace = Pace(fixed=0.001, each=0.001)
    pace.learn_run(1, 10.0)
    assert pace.run(1) < 0.0021
    for _ in range(200):
        pace.learn_run(1, 0.002)
    assert pace.run(1) == pytest.approx(0.002, rel=0.001)


def test_the_first_decoding_counts_whole_and_later_ones_in_part() -> None:
    pace = Pace(fixed=0.001, each=0.001)
    pace.learn_decoding(0.010)
    assert pace.decoding == 0.010
    pace.learn_decoding(0.020)
    assert 0.010 < pace.decoding < 0.012
