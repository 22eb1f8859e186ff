"""Intervals for means over problems: whole problems are resampled, as samples of one problem are no new evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
_CHUNK = 2_000_000
# The weight of an unseen problem, beside 1 for each that was sampled.
_UNSEEN = 0.5


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


def bootstrap(
    rows: Sequence[Sequence[float]],
    *,
    kind: Literal["share", "amount", "difference"],
    seed: int = 0,
    level: float = 0.95,
) -> list[Estimate]:
    """Return the mean of each column with an interval that resamples rows: one row is one problem.

    A row is weighed as a whole, so samples of one problem are not mistaken for independent evidence. The interval
    speaks of the problems that could have been asked, not of these alone.

    - `share`, from 0 to 1: the Bayesian bootstrap (Rubin 1981) with half a problem more, unseen, that scores 0 for the
      lower end and 1 for the upper: Gaffke's interval for a bounded mean (arXiv:1905.06208) with 1/2 in the place of
      1. Where every problem is 0 or 1, Gaffke's is Clopper and Pearson's; half of it covers nearer to the level. Unlike
      resampling, it does not shrink to a point where all sampled problems are solved.
    - `amount`, without bounds: Efron's BCa interval, for a mean: bias and acceleration are both
      skewness / (6 sqrt(n)); for few problems Student's quantile takes the place of the normal one (Hesterberg 2015,
      arXiv:1411.5279).
    - `difference` of two shares, from -1 to 1: the Bayesian bootstrap with half an unseen problem too, and the tails of
      Student's quantile. An end that faces away from zero takes the unseen problem for one on which the models differ
      wholly: a change that only a few problems show may have missed those that were asked. An end that faces zero takes
      it for one on which they do not differ. Zero itself is left out only if swapping the models at random, problem by
      problem, seldom gives so large a difference (two-sided, at the level): for scores of 0 and 1 that is McNemar's
      exact test. So fewer than six problems that differ tell nothing, however many completions there are.

    Args:
        rows: One row per problem, one column per figure.
        kind: What the figures are.
        seed: Of the resampling; equal rows and seed give equal intervals.
        level: Probability that an interval covers the true mean.

    Returns:
        One estimate per column.

    Example:
        >>> [round(bound, 2) for bound in (lambda e: (e.low, e.value, e.high))(
        ...     bootstrap([[0.0], [1.0]] * 20, kind="share")[0])]
        [0.34, 0.5, 0.66]
        >>> round(bootstrap([[1.0]] * 30, kind="share")[0].low, 2)
        0.92
    """
    import numpy as np

    values = np.asarray(rows, dtype=np.float64)
    means = values.mean(axis=0)
    if len(values) < 2:
        return [Estimate(float(mean), None, None) for mean in means]
    ends = _share_ends if kind == "share" else _amount_ends if kind == "amount" else _difference_ends
    return [
        Estimate(float(mean), float(min(low, mean)), float(max(high, mean)))
        for mean, low, high in zip(means, *ends(values, seed, level), strict=True)
    ]


def _share_ends(values: "np.ndarray", seed: int, level: float) -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    rng = np.random.default_rng(seed)
    lows, highs = [], []
    for size in _chunks(len(values)):
        weights, unseen = rng.exponential(size=(size, len(values))), rng.gamma(_UNSEEN, size=(size, 1))
        totals, known = weights.sum(axis=1, keepdims=True) + unseen, weights @ values
        lows.append(known / totals)
        highs.append(np.minimum((known + unseen) / totals, 1))  # rounding may go a little beyond
    tail = (1 - level) / 2
    return np.quantile(np.concatenate(lows), tail, axis=0), np.quantile(np.concatenate(highs), 1 - tail, axis=0)


def _amount_ends(values: "np.ndarray", seed: int, level: float) -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    draws = _resampled_means(values, seed)
    quantile = student_quantile(0.5 + level / 2, len(values) - 1)
    ends = [
        np.quantile(draws[:, column], [_tail(deviations, side * quantile) for side in (-1, 1)])
        for column, deviations in enumerate((values - values.mean(axis=0)).T)
    ]
    return np.array([low for low, _ in ends]), np.array([high for _, high in ends])


def _difference_ends(values: "np.ndarray", seed: int, level: float) -> "tuple[np.ndarray, np.ndarray]":
    import numpy as np

    rng = np.random.default_rng(seed)
    count = len(values)
    tail = NormalDist().cdf(-student_quantile(0.5 + level / 2, count - 1) * math.sqrt(count / (count - 1)))
    near, lows, highs, swapped = [], [], [], np.zeros(values.shape[1])
    least = np.abs(values.sum(axis=0)) - 1e-9  # sums of the same numbers in another order
    for size in _chunks(count):
        weights, unseen = rng.exponential(size=(size, count)), rng.gamma(_UNSEEN, size=(size, 1))
        totals, known = weights.sum(axis=1, keepdims=True) + unseen, weights @ values
        near.append(known / totals)
        lows.append(np.maximum((known - unseen) / totals, -1))
        highs.append(np.minimum((known + unseen) / totals, 1))
        signs = rng.integers(0, 2, size=(size, count)) * 2.0 - 1
        swapped += (np.abs(signs @ values) >= least).sum(axis=0)
    low, high = np.quantile(np.concatenate(near), [tail, 1 - tail], axis=0)
    far_low = np.minimum(np.quantile(np.concatenate(lows), tail, axis=0), 0)
    far_high = np.maximum(np.quantile(np.concatenate(highs), 1 - tail, axis=0), 0)
    zero_is_out = swapped <= (1 - level) * RESAMPLES
    return np.where(zero_is_out & (low > 0), low, far_low), np.where(zero_is_out & (high < 0), high, far_high)


def _chunks(count: int) -> list[int]:
    """Numbers of draws that are made at once, so that rows without number do not fill the memory."""
    size = max(1, _CHUNK // count)
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]


def _resampled_means(values: "np.ndarray", seed: int) -> "np.ndarray":
    """Means of `RESAMPLES` draws of as many rows, with replacement."""
    import numpy as np

    rng = np.random.default_rng(seed)
    count = len(values)
    weights = np.full(count, 1 / count)
    return np.concatenate([rng.multinomial(count, weights, size=size) @ values / count for size in _chunks(count)])


def _tail(deviations: "np.ndarray", quantile: float) -> float:
    """Share of the resampled means below one end of the interval."""
    squares = float((deviations**2).sum())
    skew = float((deviations**3).sum()) / (6 * squares**1.5) if squares else 0.0
    return NormalDist().cdf(skew + (skew + quantile) / (1 - skew * (skew + quantile)))


def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t.

    Args:
        probability: Above 0 and below 1.
        degrees: Degrees of freedom, at least 1.

    Returns:
        The quantile.

    Example:
        >>> round(student_quantile(0.975, 29), 3)
        2.045
    """
    from scipy.special import stdtrit  # a tenth of the time that scipy.stats takes to import

    return float(stdtrit(degrees, probability))
