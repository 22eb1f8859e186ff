"""The differences from GRPO that tables, figures and verdicts are made of, from the committed results."""

import math
from collections.abc import Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.credit.rules import ARMS
from experiments.report import above, below, interval, paired_difference, shown

BASELINE = "grpo"


def per_seed(results: Mapping[str, Any], variant: str, rule: str, figure: str) -> dict[int, float]:
    """Return one figure of every seed."""
    seeds = results["rules"][variant][rule]["seeds"]
    return {int(seed): values[figure] for seed, values in seeds.items() if values[figure] is not None}


def mean(results: Mapping[str, Any], variant: str, rule: str, figure: str) -> Estimate:
    """Return a figure's mean over seeds, with its interval."""
    return interval(list(per_seed(results, variant, rule, figure).values()))


def difference(
    results: Mapping[str, Any], variant: str, rule: str, figure: str, *, comparisons: int = 1, baseline: str = BASELINE
) -> Estimate:
    """Return a rule's figure less GRPO's on the same seeds, with its interval."""
    return paired_difference(
        per_seed(results, variant, rule, figure),
        per_seed(results, variant, baseline, figure),
        comparisons=comparisons,
    )


def difference_of_figures(
    results: Mapping[str, Any], variant: str, rule: str, figure: str, other: str, *, comparisons: int = 1
) -> Estimate:
    """Return one figure of a rule less another figure of the same trainings, with its interval."""
    return paired_difference(
        per_seed(results, variant, rule, figure),
        per_seed(results, variant, rule, other),
        comparisons=comparisons,
    )


def ratio(results: Mapping[str, Any], variant: str, rule: str, figure: str) -> Estimate:
    """Return a figure as a multiple of GRPO's: geometric mean over seeds, with the interval of its logarithm."""
    ours, base = (per_seed(results, variant, name, figure) for name in (rule, BASELINE))
    shared = [seed for seed in ours if ours[seed] > 0 and base.get(seed, 0) > 0]
    if not shared:
        return Estimate(math.nan, None, None)
    logs = interval([math.log(ours[seed] / base[seed]) for seed in shared])
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Estimate(math.exp(logs.value), low, high)


def points(estimate: Estimate) -> str:
    """Return a difference of shares as hundredths."""
    scaled = (None if end is None else 100 * end for end in (estimate.value, estimate.low, estimate.high))
    return shown(Estimate(*scaled), digits=1, signed=True)  # type: ignore[arg-type]


def names(results: Mapping[str, Any], variant: str, *, ceilings: bool) -> list[str]:
    """Return the ceilings, or the rules that know nothing they should not, in the order of `ARMS`; GRPO is neither."""
    entries = results["rules"][variant]
    return [rule for rule in ARMS if rule in entries and rule != BASELINE and entries[rule]["ceiling"] == ceilings]


def headroom(
    results: Mapping[str, Any], variant: str, figure: str = "area", *, signed: bool = True, variants: int = 1
) -> tuple[str, Estimate, bool] | None:
    """Return the best ceiling, how far it is above GRPO, and whether that is more than chance.

    The interval is widened for the number of ceilings that were tried, since the best of them is picked.

    Args:
        results: The committed results.
        variant: Of the task.
        figure: Of the seeds.
        signed: Whether ceilings may turn the sign of the advantage; without them, those are left that a rule with
            weights, such as the paper's, could reach if it knew the causes.
        variants: How many variants are looked at together: the interval is widened for them as well.

    Returns:
        Name, gain, and whether its interval lies above 0; `None` if no such ceiling was run.
    """
    tried = [rule for rule in names(results, variant, ceilings=True) if signed or not ARMS[rule].signed]
    if not tried:
        return None
    gains = {rule: difference(results, variant, rule, figure, comparisons=variants * len(tried)) for rule in tried}
    best = max(gains, key=lambda rule: gains[rule].value)
    return best, gains[best], above(gains[best])


def judges(results: Mapping[str, Any], variant: str) -> bool:
    """Return whether some ceiling is above GRPO beyond its interval: only then can rules be told apart."""
    best = headroom(results, variant)
    return best is not None and best[2]


def judging(results: Mapping[str, Any]) -> list[str]:
    """Return the variants with headroom."""
    return [variant for variant in results["rules"] if judges(results, variant)]


def outcomes(
    results: Mapping[str, Any], figure: str = "area", *, together: bool = True
) -> dict[str, list[tuple[str, str, Estimate]]]:
    """Return which rules are better or worse than GRPO in which variant, `"better"`, `"worse"` and `"neither"`.

    Args:
        results: The committed results.
        figure: Of the seeds.
        together: Widen the intervals so that they are simultaneous: with so many comparisons at 95 % each, several
            lie beyond 0 by chance alone.

    Returns:
        Side to variant, rule and difference.
    """
    pairs = [(variant, rule) for variant in results["rules"] for rule in names(results, variant, ceilings=False)]
    sides: dict[str, list[tuple[str, str, Estimate]]] = {"better": [], "worse": [], "neither": []}
    for variant, rule in pairs:
        estimate = difference(results, variant, rule, figure, comparisons=len(pairs) if together else 1)
        side = "better" if above(estimate) else "worse" if below(estimate) else "neither"
        sides[side].append((variant, rule, estimate))
    return sides
