"""Two evaluations of the same problems: the paired difference, its interval, and a verdict in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dgpo.errors import DataError
from dgpo.lab.evaluation.intervals import Estimate, bootstrap
from dgpo.lab.evaluation.metrics import Sample, per_problem, scored_problems

# Swapping the models on five problems gives each outcome with a chance of 2 in 32 or more, which is above 5 %.
_FEWEST = 6


class ProblemIdentity(NamedTuple):
    """What identifies a problem of a stored evaluation.

    Attributes:
        digest: Hash of its prompt before any template, and its gold answer; `None` in older evaluations.
        gold: The gold answer.
    """

    digest: str | None
    gold: str


@dataclass(frozen=True)
class Comparison:
    """What B does better or worse than A.

    Attributes:
        first: Name of A.
        second: Name of B.
        differences: Name of a metric to the difference B - A.
        problems: Per problem: its name, the mean score of A and of B.
        verdict: A sentence.
        notes: What makes a figure of the two differ beside the models, or was left out for it.
    """

    first: str
    second: str
    differences: dict[str, Estimate]
    problems: list[tuple[str, float, float]]
    verdict: str
    notes: tuple[str, ...] = ()


def compare(
    first: Mapping[str, Sequence[Sample]],
    second: Mapping[str, Sequence[Sample]],
    *,
    names: tuple[str, str] = ("A", "B"),
    seed: int = 0,
) -> Comparison:
    """Return the differences of two evaluations, by a paired bootstrap that resamples problems.

    How hard a problem is concerns both models, and cancels in the difference of the same problem; that makes the
    interval much narrower than those of the two figures suggest. `maj` is left out where the two have different numbers
    of completions: more votes find the majority more often, whatever the model.

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
        'strong is better than weak by 50.0 points (95 % interval 46.8 to 53.2).'
    """
    _refuse_other_problems(first, second, names)
    scored_first, scored_second = scored_problems(first), scored_problems(second)
    shared = [name for name in scored_first if name in scored_second]
    if not shared:
        raise DataError(f"{names[0]} and {names[1]} have no problem in common that both could be scored on.")
    count = min(len(samples) for side in (scored_first, scored_second) for samples in side.values())
    ks = range(1, count + 1)
    pairs = [(per_problem(scored_first[name], ks), per_problem(scored_second[name], ks)) for name in shared]
    sizes = {len(samples) for side in (scored_first, scored_second) for samples in side.values()}
    metrics = [name for name in pairs[0][0] if name != "tokens" and (name != "maj" or len(sizes) == 1)]
    estimates = bootstrap([[b[name] - a[name] for name in metrics] for a, b in pairs], kind="difference", seed=seed)
    # Lengths have no bounds.
    estimates += bootstrap([[b["tokens"] - a["tokens"]] for a, b in pairs], kind="amount", seed=seed)
    differences = dict(zip([*metrics, "tokens"], estimates, strict=True))
    differing = sum(abs(b["avg"] - a["avg"]) > 1e-12 for a, b in pairs)
    voted = "maj is left out: the evaluations have different numbers of completions, and more of them vote better."
    return Comparison(
        *names,
        differences=differences,
        problems=[(name, a["avg"], b["avg"]) for name, (a, b) in zip(shared, pairs, strict=True)],
        verdict=verdict(differences["avg"], names, differing=differing, problems=len(shared)),
        notes=() if len(sizes) == 1 else (voted,),
    )


def verdict(
    difference: Estimate, names: tuple[str, str], *, differing: int | None = None, problems: int | None = None
) -> str:
    """Return the verdict on a difference of two mean scores, in words.

    Args:
        difference: B - A, from -1 to 1.
        names: What A and B are called.
        differing: On how many problems the scores differ at all, where that is known.
        problems: Of how many.

    Returns:
        A sentence.

    Example:
        >>> verdict(Estimate(-0.01, -0.06, 0.04), ("GRPO", "DGPO"))
        'GRPO and DGPO cannot be told apart: the difference is -1.0 points (95 % interval -6.0 to 4.0).'
    """
    points = 100 * difference.value
    if difference.low is None or difference.high is None:
        return f"One problem tells nothing: the difference of {names[1]} is {points:.1f} points on it."
    interval = f"(95 % interval {100 * difference.low:.1f} to {100 * difference.high:.1f})"
    if differing is not None and differing < _FEWEST:
        where = f"on {differing} of {problems} problems alone" if differing else f"on none of {problems} problems"
        return (
            f"{names[0]} and {names[1]} cannot be told apart: they differ {where}, and fewer than {_FEWEST} tell "
            f"nothing; the difference is {points:.1f} points {interval}."
        )
    if difference.low > 0:
        return f"{names[1]} is better than {names[0]} by {points:.1f} points {interval}."
    if difference.high < 0:
        return (
            f"{names[1]} is worse than {names[0]} by {-points:.1f} points "
            f"(95 % interval {-100 * difference.high:.1f} to {-100 * difference.low:.1f})."
        )
    return f"{names[0]} and {names[1]} cannot be told apart: the difference is {points:.1f} points {interval}."


def check_same_problems(
    first: Mapping[str, ProblemIdentity], second: Mapping[str, ProblemIdentity], names: tuple[str, str]
) -> str | None:
    """Refuse evaluations of different problems that have the same names, which may be mere row numbers.

    Args:
        first: Name of each of A's problems to what is stored of it.
        second: The same of B.
        names: What A and B are called.

    Returns:
        What could not be checked, in a sentence; `None` where all was.

    Raises:
        DataError: If a problem is another one.

    Example:
        >>> one = {"0": ProblemIdentity("ab", "1")}
        >>> check_same_problems(one, one, ("A", "B")) is None
        True
    """
    unknown = 0
    for name, a in first.items():
        if (b := second.get(name)) is None:
            continue
        known = a.digest is not None and b.digest is not None
        unknown += not known
        if a.gold != b.gold or (known and a.digest != b.digest):
            what = f"gold answers {a.gold!r:.60} and {b.gold!r:.60}" if a.gold != b.gold else "different prompts"
            raise DataError(
                f"{names[0]} and {names[1]} were not asked the same problems: {name!r} has {what}. Evaluate both on "
                "the same data, with the same --seed and --task-args."
            )
    if not unknown:
        return None
    return f"of {unknown} problems only the gold answers could be compared: an older dgpo stored no hash of the prompt."


def _refuse_other_problems(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    for a, b, here, there in ((first, second, *names), (second, first, *names[::-1])):
        missing = [name for name in a if name not in b]
        if missing:
            raise DataError(
                f"{here} and {there} were not asked the same problems: {there} lacks {len(missing)} of {len(a)}, "
                f"such as {missing[0]!r}. Evaluate both on the same task, with the same --limit."
            )
