"""From the records of all cells to the committed results: a few figures per seed."""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from experiments.harness import Outcome
from experiments.surface.points import SETTINGS


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what is committed.

    Args:
        outcome: Of `run_cells`.

    Returns:
        The record, the settings, and per setting and arm the figures of each seed.
    """
    rules: dict[str, dict[str, Any]] = {}
    for cell, result in sorted(outcome.results.items()):
        arm = rules.setdefault(cell.variant, {}).setdefault(cell.rule, {"seeds": {}})
        arm["seeds"][str(cell.seed)] = _figures(result)
    settings = {name: dataclasses.asdict(SETTINGS[name]) for name in rules}
    return {"record": outcome.record, "variants": settings, "rules": rules}


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        "area": statistics.fmean(record["rewards"]),
        "accuracy": record["final"]["accuracy"],
        "effective_share": statistics.fmean([row["effective_share"] for row in record["credit"]]),
        "clipped": record["clipped"],
    }
