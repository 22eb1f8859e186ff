"""avg@n, pass@k and maj@k of n sampled completions per problem, with intervals that resample whole problems."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from dgpo.errors import DataError

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Sample:
    """One completion, as the metrics need it.

    Attributes:
        score: 1 is right, 0 wrong, in between partly right; `None` if the gold answer cannot be read.
        answer: What it answers, as text; `None` if no answer was found.
        tokens: Its length.
        truncated: Whether it was cut off at the longest length allowed.
        unparseable: Whether no answer could be read from it.
    """

    score: float | None
    answer: str | None = None
    tokens: int = 0
    truncated: bool = False
    unparseable: bool = False


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: The mean over problems.
        low: Lower end; `None` with a single problem.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that at least one of k samples is right, unbiased: `1 - C(n - c, k) / C(n, k)`.

    Chen et al. 2021 (arXiv:2107.03374), equation 1.

    Args:
        num_samples: n, the samples there are.
        num_correct: c, how many of them are right.
        k: How many may be tried, from 1 to n.

    Returns:
        A probability.

    Raises:
        DataError: If k is not from 1 to n.

    Example:
        >>> pass_at_k(4, 1, 2)  # 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6
        0.5
    """
    if not 1 <= k <= num_samples:
        raise DataError(f"pass@{k} needs at least {max(k, 1)} samples per problem, and there are {num_samples}.")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_score(samples: Sequence[Sample]) -> float:
    """Return the score of the answer that most samples give; answers in a tie share it evenly.

    Samples without an answer do not vote. Answers that are right are one answer, however they are written; others are
    the same if their texts are, white space aside.

    Args:
        samples: The samples of one problem.

    Returns:
        From 0 to 1; 0 if no sample has an answer.

    Example:
        >>> majority_score([Sample(1.0, "0.5"), Sample(1.0, "1/2"), Sample(0.0, "2"), Sample(0.0, None)])
        1.0
        >>> majority_score([Sample(1.0, "3"), Sample(0.0, "2")])
        0.5
    """
    votes: dict[str | None, list[float]] = {}
    for sample in samples:
        right = sample.score is not None and sample.score >= 1
        if right or (sample.answer is not None and not sample.unparseable):
            key = None if right else "".join(str(sample.answer).split())
            votes.setdefault(key, []).append(sample.score or 0.0)
    most = max(map(len, votes.values()), default=0)
    winners = [sum(scores) / len(scores) for scores in votes.values() if len(scores) == most]
    return sum(winners) / len(winners) if winners else 0.0


def per_problem(samples: Sequence[Sample], ks: Sequence[int]) -> dict[str, float]:
    """Return the figures of one problem; the metrics are their means over problems.

    Args:
        samples: Its samples, at least one, all with a score.
        ks: For which k to estimate pass@k.

    Returns:
        `avg`, `pass@<k>`, `maj`, `truncated`, `unparseable` and `tokens`.

    Example:
        >>> per_problem([Sample(1.0, "3", 10), Sample(0.0, "2", 20)], [1, 2])["pass@2"]
        1.0
    """
    count = len(samples)
    correct = sum(1 for sample in samples if (sample.score or 0.0) >= 1)
    figures = {"avg": sum(sample.score or 0.0 for sample in samples) / count}
    figures |= {f"pass@{k}": pass_at_k(count, correct, k) for k in ks}
    figures["maj"] = majority_score(samples)
    figures["truncated"] = sum(sample.truncated for sample in samples) / count
    figures["unparseable"] = sum(sample.unparseable for sample in samples) / count
    figures["tokens"] = sum(sample.tokens for sample in samples) / count
    return figures


def scored_problems(problems: Mapping[str, Sequence[Sample]]) -> dict[str, Sequence[Sample]]:
    """Return the problems whose gold answer can be read; the others say nothing about a model.

    Args:
        problems: The samples of each problem.

    Returns:
        Those of which every sample has a score.

    Raises:
        DataError: If there is none.

    Example:
        >>> list(scored_problems({"a": [Sample(1.0)], "b": [Sample(None)]}))
        ['a']
    """
    scored: dict[str, Sequence[Sample]] = {
        name: list(samples)
        for name, samples in problems.items()
        if samples and all(sample.score is not None for sample in samples)
    }
    if not scored:
        raise DataError("none of the problems has a gold answer that can be read, so there is nothing to measure.")
    return scored


def summarize(problems: Mapping[str, Sequence[Sample]], *, seed: int = 0) -> dict[str, Any]:
    """Return every metric with its interval.

    Args:
        problems: The samples of each problem, n of each.
        seed: Of the resampling.

    Returns:
        `problems`, `samples_per_problem`, `unscored_problems`, and `metrics`: name to `Estimate`; `avg@n`, `maj@n`,
        `pass@k` for each k up to n, `truncated`, `unparseable`, `tokens`.

    Raises:
        DataError: If problems have different numbers of samples, or none can be scored.

    Example:
        >>> found = summarize({"a": [Sample(1.0), Sample(0.0)], "b": [Sample(0.0), Sample(0.0)]})
        >>> found["metrics"]["avg@2"].value, found["metrics"]["pass@2"].value
        (0.25, 0.5)
    """
    scored = scored_problems(problems)
    counts = {len(samples) for samples in scored.values()}
    if len(counts) > 1:
        raise DataError(f"problems have between {min(counts)} and {max(counts)} samples; each must have as many.")
    count = counts.pop()
    figures = [per_problem(samples, range(1, count + 1)) for samples in scored.values()]
    names = list(figures[0])
    estimates = bootstrap([[row[name] for name in names] for row in figures], seed=seed)
    shown = {"avg": f"avg@{count}", "maj": f"maj@{count}"}
    return {
        "problems": len(scored),
        "samples_per_problem": count,
        "unscored_problems": len(problems) - len(scored),
        "metrics": {shown.get(name, name): estimate for name, estimate in zip(names, estimates, strict=True)},
    }


def bootstrap(
    rows: Sequence[Sequence[float]], *, seed: int = 0, level: float = 0.95, skewed: bool = True
) -> list[Estimate]:
    """Return the mean of each column with a bootstrap interval that resamples rows: one row is one problem.

    A row is drawn or left out as a whole, so samples of one problem are not mistaken for independent evidence. The
    interval speaks of the problems that could have been asked, not of these alone. It is Efron's BCa interval, for a
    mean: bias and acceleration are both skewness / (6 sqrt(n)); for few problems Student's quantile takes the place of
    the normal one (Hesterberg 2015, arXiv:1411.5279).

    Args:
        rows: One row per problem, one column per figure.
        seed: Of the resampling; equal rows and seed give equal intervals.
        level: Probability that an interval covers the true mean.
        skewed: Correct for skewness, as shares near 0 or 1 have it. Differences of two models are spread evenly around
            their mean; there the percentiles alone, widened by sqrt(n / (n - 1)), cover better.

    Returns:
        One estimate per column.

    Example:
        >>> [round(bound, 2) for bound in (lambda e: (e.low, e.value, e.high))(bootstrap([[0.0], [1.0]] * 20)[0])]
        [0.35, 0.5, 0.65]
    """
    import numpy as np

    values = np.asarray(rows, dtype=np.float64)
    count = len(values)
    means = values.mean(axis=0)
    if count < 2:
        return [Estimate(float(mean), None, None) for mean in means]
    draws = _resampled_means(values, seed)
    quantile = student_quantile(0.5 + level / 2, count - 1) * (1 if skewed else math.sqrt(count / (count - 1)))
    estimates = []
    for column, mean in enumerate(means):
        deviations = values[:, column] - mean if skewed else np.zeros(1)
        tails = [_tail(deviations, side * quantile) for side in (-1, 1)]
        low, high = np.quantile(draws[:, column], tails)
        estimates.append(Estimate(float(mean), float(min(low, mean)), float(max(high, mean))))
    return estimates


def _resampled_means(values: "np.ndarray", seed: int) -> "np.ndarray":
    """Means of `RESAMPLES` draws of as many rows, with replacement."""
    import numpy as np

    rng = np.random.default_rng(seed)
    count = len(values)
    weights = np.full(count, 1 / count)
    size = max(1, _CHUNK // count)
    parts = [
        rng.multinomial(count, weights, size=min(size, RESAMPLES - start)) @ values / count
        for start in range(0, RESAMPLES, size)
    ]
    return np.concatenate(parts)


def _tail(deviations: "np.ndarray", quantile: float) -> float:
    """Share of the resampled means below one end of the interval."""
    squares = float((deviations**2).sum())
    skew = float((deviations**3).sum()) / (6 * squares**1.5) if squares else 0.0
    return NormalDist().cdf(skew + (skew + quantile) / (1 - skew * (skew + quantile)))


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t, by bisection of its integrated density.

    Args:
        probability: From 0.5 up to 1, exclusively.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The quantile, to about six digits.

    Example:
        >>> round(student_quantile(0.975, 29), 3)
        2.045
    """
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)

    def below(bound: float) -> float:
        # With t = sqrt(degrees) tan(u) the density becomes cos(u) ** (degrees - 1), smooth on a finite range.
        top = math.atan(bound / math.sqrt(degrees))
        return 0.5 + constant * math.sqrt(degrees) * _simpson(lambda u: math.cos(u) ** (degrees - 1), top)

    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < probability else (low, middle)
    return low


def _simpson(function: Callable[[float], float], top: float, steps: int = 400) -> float:
    width = top / steps
    inner = sum((4 if i % 2 else 2) * function(i * width) for i in range(1, steps))
    return width / 3 * (function(0.0) + inner + function(top))
