import random

import pytest

from experiments.report import interval, paired_difference


def test_pairs_are_of_equal_seeds_and_cancel_what_these_share():
    seeds = {seed: seed / 10 for seed in range(10)}
    difference = paired_difference({seed: value + 0.05 for seed, value in seeds.items()}, seeds)
    assert (difference.low, difference.value, difference.high) == pytest.approx((0.05, 0.05, 0.05))
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_intervals_cover_as_often_as_they_say():
    rng = random.Random(0)
    samples = [[rng.gauss(1, 2) for _ in range(10)] for _ in range(2000)]
    covered = sum(estimate.low <= 1 <= estimate.high for estimate in map(interval, samples))
    assert 0.93 < covered / 2000 < 0.97


def test_more_comparisons_widen_the_interval():
    one, thirty = interval([0.0, 1.0, 2.0, 4.0]), interval([0.0, 1.0, 2.0, 4.0], comparisons=30)
    assert thirty.low < one.low < one.high < thirty.high
