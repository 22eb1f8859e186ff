"""Metrics against cases worked by hand, against simulation, and their intervals against the truth."""

import itertools
import random

import numpy as np
import pytest

from dgpo.errors import DataError
from dgpo.lab.evaluation import intervals
from dgpo.lab.evaluation.intervals import Estimate, bootstrap, student_quantile
from dgpo.lab.evaluation.metrics import Sample, majority_score, pass_at_k, summarize


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (4, 0, 2, 0.0),
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # of 6 pairs, 3 hold the right one
        (4, 2, 2, 5 / 6),  # of 6 pairs, one holds none of the two
        (4, 3, 2, 1.0),
        (4, 4, 4, 1.0),
        (32, 1, 32, 1.0),
        (5, 2, 3, 9 / 10),  # C(3, 3) / C(5, 3) = 1 / 10
    ],
)
def test_pass_at_k_by_hand(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n, c, k in itertools.product((1, 5, 7), (0, 1, 3, 5), (1, 2, 5)):
        if c <= n and k <= n:
            subsets = list(itertools.combinations(range(n), k))
            share = sum(min(subset) < c for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share)


def test_pass_at_k_is_unbiased():
    """Over many draws of n = 6 samples of a model that is right with p = 0.2, the mean is 1 - 0.8^k."""
    rng = np.random.default_rng(0)
    counts = rng.binomial(6, 0.2, size=40_000)
    for k in (1, 2, 4, 6):
        estimates = np.array([pass_at_k(6, c, k) for c in range(7)])[counts]
        # Four standard errors of the mean of 40,000 draws.
        assert abs(estimates.mean() - (1 - 0.8**k)) < 4 * estimates.std() / 200


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_must_be_from_1_to_n(k):
    with pytest.raises(DataError, match=f"pass@{k} needs"):
        pass_at_k(4, 1, k)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["3", "3", "2"], 1.0),
        (["2", "2", "3"], 0.0),
        (["3", "2"], 0.5),  # a tie is drawn: right in half of the cases
        (["3", "2", "1"], 1 / 3),
        (["3", "2", "2", "1", "1", "3"], 1 / 3),
        ([None, None, "3"], 1.0),  # no answer is no vote
        ([None, "2"], 0.0),
        ([None], 0.0),
        (["3", "3.0", "2", "2 "], 0.5),  # right answers are one, spaces do not count
    ],
)
def test_majority(answers, expected):
    samples = [Sample(float(answer in ("3", "3.0")), answer, unparseable=answer is None) for answer in answers]
    assert majority_score(samples) == pytest.approx(expected)


def test_wrong_answers_are_one_however_they_are_written():
    wrong = [Sample(0.0, text, value="1/2") for text in ("1/2", "0.5", "\\frac{1}{2}")]
    assert majority_score([*wrong, Sample(1.0, "2"), Sample(1.0, "2.0")]) == 0.0
    unread = [Sample(0.0, sample.answer) for sample in wrong]  # split, as before there were values
    assert majority_score([*unread, Sample(1.0, "2"), Sample(1.0, "2.0")]) == 1.0


def test_a_summary_by_hand():
    problems = {
        "a": [Sample(1.0, "3", 10), Sample(0.0, "2", 20, truncated=True)],
        "b": [Sample(0.0, None, 30, unparseable=True), Sample(0.0, "7", 40)],
        "c": [Sample(None), Sample(None)],  # gold answer cannot be read
    }
    found = summarize(problems)
    assert (found["problems"], found["samples_per_problem"], found["unscored_problems"]) == (2, 2, 1)
    values = {name: estimate.value for name, estimate in found["metrics"].items()}
    assert values == {
        "avg@2": 0.25,  # (1/2 + 0) / 2
        "pass@1": 0.25,
        "pass@2": 0.5,
        "maj@2": 0.25,  # a tie on a, none right on b
        "truncated": 0.25,
        "unparseable": 0.25,
        "tokens": 25.0,
    }
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found["metrics"].values())
    assert found == summarize(problems)


def test_partial_credit_counts_for_avg_and_not_for_pass():
    found = summarize({"a": [Sample(0.5), Sample(0.25)], "b": [Sample(1.0), Sample(0.0)]})["metrics"]
    assert (found["avg@2"].value, found["pass@2"].value) == (0.4375, 0.5)


def test_metrics_of_a_simulated_model():
    """Problems with known chances: avg@n and pass@k must come out at their expectations over these problems."""
    rng = random.Random(1)
    chances = [0.0, 0.1, 0.5, 0.9, 1.0] * 80
    problems = {
        str(i): [Sample(float(rng.random() < chance), "x") for _ in range(8)] for i, chance in enumerate(chances)
    }
    found = summarize(problems)["metrics"]
    # 3,200 draws, 400 problems: standard errors below 0.01.
    assert found["avg@8"].value == pytest.approx(0.5, abs=0.03)
    for k in (2, 4, 8):
        truth = sum(1 - (1 - chance) ** k for chance in chances) / len(chances)
        assert found[f"pass@{k}"].value == pytest.approx(truth, abs=0.03)


def test_unequal_numbers_of_samples_are_refused():
    with pytest.raises(DataError, match="between 1 and 2 samples"):
        summarize({"a": [Sample(1.0)], "b": [Sample(1.0), Sample(0.0)]})
    with pytest.raises(DataError, match="nothing to measure"):
        summarize({"a": [Sample(None)]})
    assert summarize({"a": [Sample(1.0)]})["metrics"]["avg@1"] == Estimate(1.0, None, None)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (29, 2.04523), (499, 1.96473)]
)
def test_student_quantiles_are_those_of_the_tables(degrees, expected):
    assert student_quantile(0.975, degrees) == pytest.approx(expected, rel=1e-5)


def test_the_bootstrap_resamples_problems_not_samples():
    """32 equal samples of each problem add nothing: the interval is that of 30 coin flips, not of 960."""
    scores = [float(i % 2) for i in range(30)]
    problems = {str(i): [Sample(score)] * 32 for i, score in enumerate(scores)}
    estimate = summarize(problems)["metrics"]["avg@32"]
    alone = bootstrap([[score] for score in scores], kind="share")[0]
    assert (estimate.low, estimate.high) == (alone.low, alone.high)
    # Where all problems are 0 or 1, the lower end is the 2.5 % quantile of Beta(15, 15.5), 0.318, and mirrored.
    assert alone.low == pytest.approx(0.318, abs=0.01)
    assert alone.high == pytest.approx(1 - 0.318, abs=0.01)


def test_a_share_of_which_all_is_solved_is_no_certainty():
    """30 of 30 solved: the lower end is the 2.5 % quantile of Beta(30, 1/2), 0.9195; drawing again would give 1."""
    solved, none = bootstrap([[1.0, 0.0]] * 30, kind="share")
    assert (solved.value, solved.high, none.low, none.value) == (1.0, 1.0, 0.0, 0.0)
    assert solved.low == pytest.approx(0.9195, abs=0.005)
    assert none.high == pytest.approx(1 - 0.9195, abs=0.005)


def test_an_amount_is_not_held_between_0_and_1():
    found = bootstrap([[float(tokens)] for tokens in range(100, 160)], kind="amount")[0]
    # Mean 129.5; Student's 2.0010 times 17.464 / sqrt(60) = 4.51, of a distribution that is not skewed.
    assert (found.low, found.value, found.high) == pytest.approx((125.0, 129.5, 134.0), abs=0.2)


# Chances of the problems of an exam like AIME: many nearly hopeless, many nearly certain, some in between.
SPREADS = {"weak (mean 0.17)": (0.25, 1.25), "middle (mean 0.4)": (0.4, 0.6), "strong (mean 0.6)": (0.6, 0.4)}
# Nearly all problems never solved, or always: the interval may be too wide there, and must not be too narrow.
EXTREMES = {"very weak (mean 0.07)": (0.15, 1.85), "very strong (mean 0.8)": (1.2, 0.3)}


@pytest.mark.parametrize("spread", SPREADS | EXTREMES)
def test_the_interval_covers_the_truth_in_19_of_20_exams(spread, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    a, b = (SPREADS | EXTREMES)[spread]
    rng = np.random.default_rng(7)
    exams = 1500
    hits = {"avg@32": 0, "pass@8": 0}
    # E[1 - (1 - p)^8] for p ~ Beta(a, b) is 1 - prod (b + i) / (a + b + i).
    truth = {"avg@32": a / (a + b), "pass@8": 1 - float(np.prod([(b + i) / (a + b + i) for i in range(8)]))}
    table = np.array([pass_at_k(32, c, 8) for c in range(33)])
    for exam in range(exams):
        right = rng.binomial(32, rng.beta(a, b, size=30))
        estimates = bootstrap(np.stack([right / 32, table[right]], axis=1).tolist(), kind="share", seed=exam)
        for name, estimate in zip(hits, estimates, strict=True):
            hits[name] += estimate.low <= truth[name] <= estimate.high
    for name, count in hits.items():
        assert 0.93 <= count / exams <= (0.97 if spread in SPREADS else 1), (name, count / exams)
