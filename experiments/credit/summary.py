"""From the records of all cells to the committed results: figures per seed, curves and credit averaged over seeds."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.credit.layout import ROLES
from experiments.credit.rules import ARMS
from experiments.credit.stacks import variant_named
from experiments.harness import Outcome

CURVE_POINTS = 20


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what is committed.

    Args:
        outcome: Of `run_cells`.

    Returns:
        The record, the variants, and per variant and rule the figures of each seed, the curve and the credit by role.
    """
    by_pair: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for cell, result in sorted(outcome.results.items()):
        by_pair.setdefault((cell.variant, cell.rule), {})[cell.seed] = result
    rules: dict[str, dict[str, Any]] = {}
    for (variant, rule), records in by_pair.items():
        rules.setdefault(variant, {})[rule] = {
            "ceiling": ARMS[rule].ceiling,
            "seeds": {str(seed): _figures(record) for seed, record in records.items()},
            "curve": _curve([record["rewards"] for record in records.values()]),
            "credit": _credit([record["credit"] for record in records.values()]),
        }
    return {
        "record": outcome.record,
        "variants": {name: dataclasses.asdict(variant_named(name)) for name in rules},
        "rules": rules,
    }


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one seed."""
    norms, credit = record["grad_norms"], record["credit"]
    half = max(1, len(norms) // 2)
    return {
        "area": _mean(record["rewards"]),
        **record["final"],
        "norm_mean": _mean(norms),
        "norm_variance": statistics.pvariance(norms),
        "norm_max": max(norms),
        "norm_mean_late": _mean(norms[half:]),
        "norm_variance_late": statistics.pvariance(norms[half:]),
        "entropy": credit[-1]["entropy"],
        "decoy_entropy": credit[-1].get("decoy", {}).get("entropy", math.nan),
        "decoy_entropy_lost": _lost(credit, "decoy"),
        "auroc": _mean(row["auroc"] for row in credit),
        # Before the first update policy and reference are the same in most variants: d points nowhere.
        **{f"auroc_{name}": _mean(row[f"auroc {name}"] for row in credit[1:]) for name in ("d", "h", "d*h")},
        **_late_shares(credit),
        "effective_share": _mean(row["effective_share"] for row in credit),
        "max_weight": max(row["max_weight"] for row in credit),
        "clipped": record["clipped"],
        "mixed_groups": _mean(record["mixed_groups"]),
    }


def _lost(credit: Sequence[Mapping[str, Any]], role: str) -> float:
    """How much of the entropy that a role's tokens had at the start is gone at the end."""
    start, end = (credit[index].get(role, {}).get("entropy", math.nan) for index in (0, -1))
    return 1 - end / start if start else math.nan


def _late_shares(credit: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each role's share of the credit in the second half of the training, and how often its share of the tokens."""
    late = credit[len(credit) // 2 :]
    figures: dict[str, float] = {}
    for role in ROLES:
        shares, tokens = (_mean(row[role][name] for row in late if role in row) for name in ("credit", "tokens"))
        if math.isfinite(shares):
            figures |= {f"credit_{role}": shares, f"credit_per_token_{role}": shares / tokens}
    return figures


def _curve(curves: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean reward over seeds in equal pieces of the training, and the standard error over seeds."""
    total = len(curves[0])
    points = min(CURVE_POINTS, total)
    bounds = [round(index * total / points) for index in range(points + 1)]
    pieces = [[_mean(curve[low:high]) for curve in curves] for low, high in itertools.pairwise(bounds)]
    return {
        "rollout": [(low + high) / 2 for low, high in itertools.pairwise(bounds)],
        "mean": [_mean(piece) for piece in pieces],
        "error": [statistics.stdev(piece) / math.sqrt(len(piece)) if len(piece) > 1 else 0.0 for piece in pieces],
    }


def _credit(series: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Per role, averaged over seeds at each measured step: share of the tokens and of the credit, d and entropy."""
    steps = [row["step"] for row in series[0]]
    by_role: dict[str, Any] = {"step": steps}
    for role in ROLES:
        rows = [[one[index].get(role) for one in series] for index in range(len(steps))]
        if not any(any(row) for row in rows):
            continue
        by_role[role] = {
            name: [_mean(item[name] for item in row if item) for row in rows]
            for name in ("tokens", "credit", "d", "entropy")
        }
    return by_role


def _mean(values: Any) -> float:
    """Mean of the finite ones; nan of none. A figure that does not exist (AUROC without a cause) is left out."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
