"""Figures per rule, swept probability and seed, taken from the committed results."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

UNSWEPT = "reference=0.25"
"""The word's own probability: nothing is shifted, and all variants are this one."""
_LAST = 5


def per_seed(results: Mapping[str, Any], variant: str, rule: str, figure: str) -> dict[int, float]:
    """Return one figure for each seed.

    Args:
        results: What the command has written.
        variant: Such as `"reference=1e-8"`.
        rule: One of `training.RULES`.
        figure: `"mean"`, `"largest"` or `"log_mean"` of the gradient norms, or `"reward"`, of the last steps.

    Returns:
        Seed to figure; empty if there is no such cell.
    """
    measure = {
        "mean": lambda cell: statistics.fmean(cell["grad_norm"]),
        "log_mean": lambda cell: math.log10(statistics.fmean(cell["grad_norm"])),
        "largest": lambda cell: max(cell["grad_norm"]),
        "reward": lambda cell: statistics.fmean(cell["reward"][-_LAST:]),
    }[figure]
    cells = [cell for cell in results["cells"] if (cell["variant"], cell["rule"]) == (variant, rule)]
    return {cell["seed"]: measure(cell) for cell in cells}


def variants(results: Mapping[str, Any], side: str) -> list[str]:
    """Return the variants of a sweep, from the word's own probability to the smallest.

    Args:
        results: What the command has written.
        side: `"reference"`, `"policy"` or `"stale"`.

    Returns:
        Names of variants; the first is `UNSWEPT`.
    """
    own = {cell["variant"] for cell in results["cells"]} - {UNSWEPT}
    swept = [variant for variant in own if variant.startswith(f"{side}=")]
    return [UNSWEPT, *sorted(swept, key=probability, reverse=True)]


def probability(variant: str) -> float:
    """Return the swept probability of a variant.

    Args:
        variant: Its name.

    Returns:
        The probability.

    Example:
        >>> probability("policy=1e-4")
        0.0001
    """
    return float(variant.partition("=")[2])


def along(results: Mapping[str, Any], side: str, rule: str, figure: str) -> list[tuple[float, float]]:
    """Return a figure, averaged over seeds, along a sweep.

    Args:
        results: What the command has written.
        side: As for `variants`.
        rule: One of `training.RULES`; GRPO does not look at the reference and is the same along that sweep.
        figure: As for `per_seed`.

    Returns:
        Probability and mean, where there are any.
    """
    points = []
    for variant in variants(results, side):
        looked_up = UNSWEPT if side == "reference" and rule == "grpo" else variant
        values = per_seed(results, looked_up, rule, figure)
        if values:
            points.append((probability(variant), statistics.fmean(values.values())))
    return points
