"""The differences from GRPO of the same start that tables, figures and verdicts are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.hindsight.cells import CHOSEN_ON
from experiments.hindsight.rules import ARMS
from experiments.report import interval, paired_difference


def per_seed(
    results: Mapping[str, Any], variant: str, arm: str, figure: str, seeds: Sequence[int] | None = None
) -> dict[int, float]:
    """Return one figure of every seed; those on which learning rates are chosen are left out by default."""
    values = results["rules"][variant][arm]["seeds"]
    chosen = {int(seed): one[figure] for seed, one in values.items() if one.get(figure) is not None}
    return {
        seed: value for seed, value in chosen.items() if (seed not in CHOSEN_ON if seeds is None else seed in seeds)
    }


def mean(results: Mapping[str, Any], variant: str, arm: str, figure: str) -> Estimate | None:
    """Return a figure's mean over seeds, with its interval; None where the arm has no such figure."""
    values = list(per_seed(results, variant, arm, figure).values())
    return interval(values) if values else None


def gain(results: Mapping[str, Any], variant: str, arm: str, figure: str, *, comparisons: int = 1) -> Estimate:
    """Return an arm's figure less that of GRPO from the same start and seeds, with its interval."""
    return paired_difference(
        per_seed(results, variant, arm, figure),
        per_seed(results, variant, ARMS[arm].baseline, figure),
        comparisons=comparisons,
    )


def between(results: Mapping[str, Any], arm: str, other: str) -> dict[tuple[str, str], Estimate]:
    """Return an arm's area less another's wherever both were run, with simultaneous intervals."""
    variants = [variant for variant, present in results["rules"].items() if arm in present and other in present]
    return {
        (variant, arm): paired_difference(
            *(per_seed(results, variant, one, "area") for one in (arm, other)), comparisons=len(variants)
        )
        for variant in variants
    }


def gains(results: Mapping[str, Any], arms: Sequence[str], figure: str) -> dict[tuple[str, str], Estimate]:
    """Return the gains of some arms wherever they and their baseline were run, with simultaneous intervals."""
    pairs = [
        (variant, arm)
        for variant, present in results["rules"].items()
        for arm in arms
        if arm in present and ARMS[arm].baseline in present
    ]
    return {pair: gain(results, *pair, figure, comparisons=len(pairs)) for pair in pairs}
