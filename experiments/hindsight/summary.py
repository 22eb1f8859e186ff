"""From the records of all cells to the committed results: figures per seed, and costs."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.credit.stacks import variant_named
from experiments.harness import Outcome
from experiments.hindsight.rules import ARMS


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what is committed.

    Args:
        outcome: Of `run_cells`.

    Returns:
        The record, the variants, and per variant and arm the figures of each seed, and the mean cost.
    """
    rules: dict[str, dict[str, Any]] = {}
    for cell, result in sorted(outcome.results.items()):
        arm = rules.setdefault(cell.variant, {}).setdefault(
            cell.rule, {"baseline": ARMS[cell.rule].baseline, "seeds": {}, "costs": []}
        )
        arm["seeds"][str(cell.seed)] = _figures(result)
        arm["costs"].append(result["cost"])
    for arms in rules.values():
        for arm in arms.values():
            costs = arm.pop("costs")
            arm["cost"] = {name: _mean(one[name] for one in costs) for name in costs[0]}
    return {
        "record": outcome.record,
        "variants": {name: dataclasses.asdict(variant_named(name)) for name in rules},
        "rules": rules,
    }


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    signals = record["signals"]
    signs = signals.get("sign_auroc", [])
    half = len(signs) // 2
    return {
        "area": _mean(record["rewards"]),
        **record["final"],
        "norm_mean": _mean(record["grad_norms"]),
        "norm_variance": statistics.pvariance(record["grad_norms"]),
        **{name: _mean(series) for name, series in signals.items()},
        **({"sign_auroc_early": _mean(signs[:half]), "sign_auroc_late": _mean(signs[half:])} if signs else {}),
    }


def _mean(values: Iterable[float | None]) -> float:
    """Mean of the finite ones; nan of none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
