"""Paired comparisons: what they say, how often they are right, and what they refuse."""

import numpy as np
import pytest

from dgpo.errors import DataError
from dgpo.lab.evaluation import intervals
from dgpo.lab.evaluation.compare import ProblemIdentity, check_same_problems, compare
from dgpo.lab.evaluation.intervals import bootstrap
from dgpo.lab.evaluation.metrics import Sample, summarize


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


def sparse_exam(rng, spread, easier):
    """Differences on 30 problems where a share became much easier, 32 completions each; and the true mean."""
    a, b = spread
    chances = rng.beta(a, b, size=30)
    better = np.where(rng.random(30) < easier, 1 - 0.3 * (1 - chances), chances)
    return (rng.binomial(32, better) - rng.binomial(32, chances)) / 32, easier * 0.7 * b / (a + b)


def greedy_exam(rng, won, lost):
    """Differences of one greedy completion on each of 30 problems, and the true mean."""
    return rng.choice([1.0, -1.0, 0.0], p=[won, lost, 1 - won - lost], size=30), won - lost


@pytest.mark.parametrize(
    ("exam", "options"),
    [
        (sparse_exam, ((0.15, 1.85), 0.05)),
        (sparse_exam, ((0.25, 1.25), 0.05)),
        (sparse_exam, ((0.4, 0.6), 0.1)),
        (greedy_exam, (0.04, 0.01)),
        (greedy_exam, (0.1, 0.02)),
    ],
)
def test_a_change_in_few_problems_is_within_the_interval(exam, options, monkeypatch):
    """Many exams hold no problem that changed; plain resampling then covers the truth in 68 to 93 of 100."""
    monkeypatch.setattr(intervals, "RESAMPLES", 500)
    rng = np.random.default_rng(11)
    hits = 0
    for number in range(500):
        differences, truth = exam(rng, *options)
        (found,) = bootstrap(differences[:, None].tolist(), kind="difference", seed=number)
        hits += found.low <= truth <= found.high
    assert hits / 500 >= 0.94


@pytest.mark.parametrize(("won", "lost", "sure"), [(6, 0, True), (5, 0, False), (13, 4, True), (12, 4, False)])
def test_zero_is_left_out_as_by_mcnemars_exact_test(won, lost, sure):
    """Two-sided: 2 / 2^6 = 0.031, 2 / 2^5 = 0.063, 2 (1 + 17 + 136 + 680 + 2380) / 2^17 = 0.049, and 0.077."""
    differences = [1.0] * won + [-1.0] * lost + [0.0] * (60 - won - lost)
    better, worse = bootstrap([[d, -d] for d in differences], kind="difference", seed=3)
    assert (better.low > 0) == sure == (worse.high < 0)
    assert better.low <= (won - lost) / 60 <= better.high


def test_no_interval_of_a_difference_is_a_point():
    none, all_won = bootstrap([[0.0, 1.0]] * 30, kind="difference")
    # Half an unseen problem: quantiles of Beta(1/2, 30), at the tails of Student's quantile with 29 degrees.
    assert none.high == pytest.approx(0.087, abs=0.006)
    assert none.low == pytest.approx(-0.087, abs=0.006)
    assert (all_won.low, all_won.high) == pytest.approx((1 - 0.087, 1.0), abs=0.006)


def test_few_problems_that_differ_give_no_verdict():
    first = {str(i): [Sample(0.0)] * 32 for i in range(30)}
    second = first | {"3": [Sample(1.0)] * 32}
    said = compare(first, second, names=("old", "new")).verdict
    assert said.startswith("old and new cannot be told apart: they differ on 1 of 30 problems alone")
    assert "3.3 points" in said
    assert "differ on none of 30 problems" in compare(first, first).verdict
    two = compare({"0": [Sample(0.0)], "1": [Sample(0.0)]}, {"0": [Sample(1.0)], "1": [Sample(1.0)]})
    assert "cannot be told apart: they differ on 2 of 2 problems" in two.verdict
    six = first | {str(i): [Sample(1.0)] * 32 for i in range(6)}
    assert compare(first, six, names=("old", "new")).verdict.startswith("new is better than old by 20.0 points")


def test_votes_of_different_numbers_of_completions_are_not_compared():
    """The same model gains from the number of votes alone."""
    rng = np.random.default_rng(0)
    chances = [0.55, 0.6] * 10
    few, many = model(chances, 4, rng), model(chances, 128, rng)
    found = compare(few, many)
    assert "maj" not in found.differences
    assert found.notes == (
        "maj is left out: the evaluations have different numbers of completions, and more of them vote better.",
    )
    same = compare(few, few)
    assert "maj" in same.differences
    assert same.notes == ()


def test_other_problems_under_the_same_names_are_refused():
    first = {"0": ProblemIdentity("ab", "1"), "1": ProblemIdentity("cd", "2")}
    assert check_same_problems(first, dict(first), ("A", "B")) is None
    with pytest.raises(DataError, match="'1' has gold answers '2' and '3'"):
        check_same_problems(first, first | {"1": ProblemIdentity("cd", "3")}, ("A", "B"))
    with pytest.raises(DataError, match="'1' has different prompts"):
        check_same_problems(first, first | {"1": ProblemIdentity("xy", "2")}, ("A", "B"))
    older = {name: ProblemIdentity(None, asked.gold) for name, asked in first.items()}
    assert "of 2 problems only the gold answers could be compared" in check_same_problems(first, older, ("A", "B"))
    with pytest.raises(DataError, match="gold answers"):
        check_same_problems(older, older | {"0": ProblemIdentity(None, "7")}, ("A", "B"))


def test_other_problems_are_refused():
    first = {"a": [Sample(1.0)], "b": [Sample(1.0)]}
    with pytest.raises(DataError, match="B lacks 1 of 2, such as 'b'"):
        compare(first, {"a": [Sample(1.0)]})
    with pytest.raises(DataError, match="A lacks 1 of 3, such as 'c'"):
        compare(first, {**first, "c": [Sample(1.0)]})
