"""Two evaluations of the same problems: the paired difference, its interval, and a verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo.errors import DataError
from dgpo.evaluation.intervals import Estimate, bootstrap
from dgpo.evaluation.metrics import Sample, per_problem, scored_problems


@dataclass(frozen=True)
class Comparison:
    """What B does better or worse than A.

    Attributes:
        first: Name of A.
        second: Name of B.
        differences: Name of a metric to the difference B - A.
        problems: Per problem: its name, the mean score of A and of B.
        verdict: A sentence.
    """

    first: str
    second: str
    differences: dict[str, Estimate]
    problems: list[tuple[str, float, float]]
    verdict: str


def compare(
    first: Mapping[str, Sequence[Sample]],
    second: Mapping[str, Sequence[Sample]],
    *,
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Comparison:
    """Return the differences of two evaluations, by a paired bootstrap that resamples problems.

    How hard a problem is concerns both models, and cancels in the difference of the same problem; that makes the
    interval much narrower than those of the two figures suggest.

    Args:
        first: A's samples of each problem.
        second: B's samples of the same problems; the number per problem may differ from A's.
        names: What A and B are called.
        seed: Of the resampling.

    Returns:
        The differences of `avg`, `maj`, `pass@k` for each k that both allow, `truncated`, `unparseable` and `tokens`.

    Raises:
        DataError: If the problems are not the same, or none can be scored.

    Example:
        >>> weak = {str(i): [Sample(0.0), Sample(float(i % 2))] for i in range(40)}
        >>> strong = {str(i): [Sample(1.0), Sample(float(i % 2))] for i in range(40)}
        >>> compare(weak, strong, names=("weak", "strong")).verdict
        'strong is better than weak by 50.0 points (95 % interval 50.0 to 50.0).'
    """
    _refuse_other_problems(first, second, names)
    scored_first, scored_second = scored_problems(first), scored_problems(second)
    shared = [name for name in scored_first if name in scored_second]
    if not shared:
        raise DataError(f"{names[0]} and {names[1]} have no problem in common that both could be scored on.")
    count = min(len(samples) for side in (scored_first, scored_second) for samples in side.values())
    ks = range(1, count + 1)
    pairs = [(per_problem(scored_first[name], ks), per_problem(scored_second[name], ks)) for name in shared]
    metrics = list(pairs[0][0])
    rows = [[b[metric] - a[metric] for metric in metrics] for a, b in pairs]
    estimates = bootstrap(rows, kind="difference", seed=seed)
    differences = dict(zip(metrics, estimates, strict=True))
    return Comparison(
        *names,
        differences=differences,
        problems=[(name, a["avg"], b["avg"]) for name, (a, b) in zip(shared, pairs, strict=True)],
        verdict=verdict(differences["avg"], names),
    )


def verdict(difference: Estimate, names: tuple[str, str]) -> str:
    """Return what a difference of two mean scores says, in words.

    Args:
        difference: B - A, from -1 to 1.
        names: What A and B are called.

    Returns:
        A sentence.

    Example:
        >>> verdict(Estimate(-0.01, -0.06, 0.04), ("GRPO", "DGPO"))
        'GRPO and DGPO cannot be told apart: the difference is -1.0 points (95 % interval -6.0 to 4.0).'
    """
    points = 100 * difference.value
    if difference.low is None or difference.high is None:
        return f"One problem tells nothing: the difference of {names[1]} is {points:.1f} points on it."
    if difference.low > 0:
        return (
            f"{names[1]} is better than {names[0]} by {points:.1f} points "
            f"(95 % interval {100 * difference.low:.1f} to {100 * difference.high:.1f})."
        )
    if difference.high < 0:
        return (
            f"{names[1]} is worse than {names[0]} by {-points:.1f} points "
            f"(95 % interval {-100 * difference.high:.1f} to {-100 * difference.low:.1f})."
        )
    return (
        f"{names[0]} and {names[1]} cannot be told apart: the difference is {points:.1f} points "
        f"(95 % interval {100 * difference.low:.1f} to {100 * difference.high:.1f})."
    )


def _refuse_other_problems(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    for a, b, here, there in ((first, second, *names), (second, first, *names[::-1])):
        missing = [name for name in a if name not in b]
        if missing:
            raise DataError(
                f"{here} and {there} were not asked the same problems: {there} lacks {len(missing)} of {len(a)}, "
                f"such as {missing[0]!r}. Evaluate both on the same task, with the same --limit."
            )
