"""The differences from GRPO that the table, the figure and the verdict are made of."""

from collections.abc import Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.credit.comparison import per_seed
from experiments.report import paired_difference
from experiments.surface.points import GRPO, POINTS, TAUS, Point


def measured(results: Mapping[str, Any]) -> list[Point]:
    """Return the points at which GRPO and DGPO at each temperature were run."""
    rules = results["rules"]
    return [point for point in POINTS if all(point.arm(one) in rules.get(point.variant, {}) for one in (GRPO, *TAUS))]


def num_comparisons(results: Mapping[str, Any]) -> int:
    """Return how many trainings are compared with GRPO's; one that stands on several axes counts once."""
    return len({(point.variant, point.arm(method)) for point in measured(results) for method in TAUS})


def by_axis(results: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Return the measured points of each axis."""
    axes: dict[str, list[Point]] = {}
    for point in measured(results):
        axes.setdefault(point.axis, []).append(point)
    return axes


def differences(results: Mapping[str, Any]) -> dict[tuple[Point, str], Estimate]:
    """Return what DGPO's area is above GRPO's at each point and temperature, with simultaneous intervals.

    A training that stands on several axes (the task as it is) is one comparison.
    """
    points = measured(results)
    count = num_comparisons(results)
    return {
        (point, method): paired_difference(
            *(per_seed(results, point.variant, point.arm(one), "area") for one in (method, GRPO)), comparisons=count
        )
        for point in points
        for method in TAUS
    }
