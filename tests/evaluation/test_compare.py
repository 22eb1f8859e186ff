"""Paired comparisons: what they say, how often they are right, and what they refuse."""

import numpy as np
import pytest

from dgpo.errors import DataError
from dgpo.evaluation import intervals
from dgpo.evaluation.compare import compare
from dgpo.evaluation.metrics import Sample, summarize


def model(chances, n, rng):
    return {
        f"p{i}": [Sample(float(right), "x") for right in rng.random(n) < chance] for i, chance in enumerate(chances)
    }


def test_differences_by_hand():
    first = {"a": [Sample(1.0, "1", 10), Sample(0.0, "2", 20)], "b": [Sample(0.0, "3", 30), Sample(0.0, "4", 40)]}
    second = {"b": [Sample(1.0, "5", 10)] * 4, "a": [Sample(1.0, "1", 10)] * 2 + [Sample(0.0, "7", 10)] * 2}
    found = compare(first, second)
    # a: 1/2 to 1/2, b: 0 to 1.
    assert found.problems == [("a", 0.5, 0.5), ("b", 0.0, 1.0)]
    assert found.differences["avg"].value == 0.5
    # pass@2, unbiased: a from 1 to 1 - C(2, 2) / C(4, 2) = 5/6, b from 0 to 1.
    assert found.differences["pass@2"].value == pytest.approx((-1 / 6 + 1) / 2)
    assert "pass@3" not in found.differences  # A has two samples
    assert found.differences["tokens"].value == pytest.approx((10 - 15 + 10 - 35) / 2)


def test_pairing_finds_what_separate_intervals_hide():
    rng = np.random.default_rng(0)
    chances = rng.beta(0.4, 0.6, size=30)
    better = np.clip(chances + 0.08, 0, 1)
    first, second = model(chances, 32, rng), model(better, 32, rng)
    found = compare(first, second, names=("old", "new"))
    separate = [summarize(side)["metrics"]["avg@32"] for side in (first, second)]
    assert separate[0].high > separate[1].low  # they overlap widely
    assert found.verdict.startswith("new is better than old by ")
    assert compare(second, first, names=("new", "old")).verdict.startswith("old is worse than new by ")
    assert "cannot be told apart" in compare(first, first).verdict


def test_equal_models_are_told_apart_in_one_of_twenty_cases(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(1500):
        chances = rng.beta(0.25, 1.25, size=30)
        first, second = rng.binomial(32, chances), rng.binomial(32, chances)
        found = intervals.bootstrap(((second - first) / 32)[:, None].tolist(), kind="difference")
        wrong += not found[0].low <= 0 <= found[0].high
    assert 0.03 <= wrong / 1500 <= 0.07


def test_other_problems_are_refused():
    first = {"a": [Sample(1.0)], "b": [Sample(1.0)]}
    with pytest.raises(DataError, match="B lacks 1 of 2, such as 'b'"):
        compare(first, {"a": [Sample(1.0)]})
    with pytest.raises(DataError, match="A lacks 1 of 3, such as 'c'"):
        compare(first, {**first, "c": [Sample(1.0)]})
