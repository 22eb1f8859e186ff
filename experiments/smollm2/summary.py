"""Figures per task, rule and seed, taken from the committed results."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.report import interval, paired_difference
from experiments.smollm2.rules import ARMS, AT_RATES, BASE, CHOSEN_ON, GRPO, RATED, TASKS

LAST = 4
"""Steps at the end of a training whose mean is quoted."""


def trained(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the rules that were trained on each task, in the order of `ARMS`.

    Args:
        results: What the command has written.

    Returns:
        Task to rules; tasks without any are left out.
    """
    done = {(cell["cell"][0], cell["cell"][1]) for cell in results["cells"]}
    by_task = {task: [rule for rule in ARMS if (task, rule) in done] for task in TASKS}
    return {task: rules for task, rules in by_task.items() if rules}


def cells_of(results: Mapping[str, Any], task: str, rule: str, *, chosen: bool = False) -> dict[int, Mapping[str, Any]]:
    """Return the cells of a task and rule, by seed: those of the comparison, or those on which a rate is chosen."""
    cells = {cell["cell"][2]: cell for cell in results["cells"] if cell["cell"][:2] == [task, rule]}
    return {seed: cell for seed, cell in cells.items() if (seed in CHOSEN_ON) is chosen}


def accuracy(results: Mapping[str, Any], task: str, rule: str, *, chosen: bool = False) -> dict[int, float]:
    """Return the held-out accuracy by seed: right answers among all samples of all questions.

    Args:
        results: What the command has written.
        task: One of `TASKS`.
        rule: One of `ARMS`, or `BASE` for the model before training.
        chosen: Of the seeds on which learning rates are chosen, not of those of the comparison.

    Returns:
        Seed to accuracy.
    """
    return {
        seed: statistics.fmean(cell["correct"]) / cell["settings"]["eval_samples"]
        for seed, cell in cells_of(results, task, rule, chosen=chosen).items()
    }


def best_rates(results: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return GRPO and hindsight, each at the learning rate that is best on other seeds; None where one is missing."""
    best = []
    for rules in AT_RATES.values():
        found = {rule: accuracy(results, RATED, rule, chosen=True) for rule in rules}
        complete = all(values.keys() == set(CHOSEN_ON) for values in found.values())
        if not complete or not all(accuracy(results, RATED, rule) for rule in rules):
            return None
        best.append(max(found, key=lambda rule: statistics.fmean(found[rule].values())))
    return best[0], best[1]


def over_questions(results: Mapping[str, Any], task: str, rule: str, baseline: str) -> Estimate:
    """Return the difference of accuracy, with an interval over the questions of all seeds, paired by question.

    It treats the trained models as given: it says how these models differ, not how the next training would.

    Args:
        results: What the command has written.
        task: One of `TASKS`.
        rule: The one of interest.
        baseline: The one it is compared with.

    Returns:
        Mean difference and bounds.
    """
    ours, theirs = (cells_of(results, task, name) for name in (rule, baseline))
    differences = [
        (a - b) / ours[seed]["settings"]["eval_samples"]
        for seed in sorted(ours.keys() & theirs.keys())
        for a, b in zip(ours[seed]["correct"], theirs[seed]["correct"], strict=True)
    ]
    return interval(differences)


def over_seeds(results: Mapping[str, Any], task: str, rule: str, baseline: str) -> Estimate:
    """Return the difference of accuracy with an interval over the seeds that both were trained on."""
    return paired_difference(*(accuracy(results, task, name) for name in (rule, baseline)))


def curve(results: Mapping[str, Any], task: str, rule: str, name: str) -> list[float]:
    """Return a curve, averaged over seeds, steps without a value left out of the average."""
    curves = [cell["curves"][name] for cell in cells_of(results, task, rule).values()]
    return [_mean(values) for values in zip(*curves, strict=True)]


def at_end(results: Mapping[str, Any], task: str, rule: str, name: str) -> dict[int, float]:
    """Return the mean of a curve over its last steps, by seed; empty for what an arm does not log."""
    ends = {seed: _mean(cell["curves"][name][-LAST:]) for seed, cell in cells_of(results, task, rule).items()}
    return {seed: end for seed, end in ends.items() if not math.isnan(end)}


def steps(results: Mapping[str, Any], task: str, rule: str, name: str) -> list[float]:
    """Return the values of all steps of all seeds."""
    cells = cells_of(results, task, rule).values()
    values = [value for cell in cells for value in cell["curves"][name] if value is not None]
    return [value for value in values if not math.isnan(value)]


def norm_variance(results: Mapping[str, Any], task: str, rule: str) -> dict[int, float]:
    """Return the variance of the gradient norm over the steps of each training, by seed."""
    cells = cells_of(results, task, rule)
    return {seed: statistics.variance(cell["curves"]["grad_norm"]) for seed, cell in cells.items()}


def baseline_of(rule: str) -> str:
    """Return what a rule is compared with: GRPO, and GRPO itself with the model before training."""
    return BASE if rule == GRPO else GRPO


def _mean(values: Iterable[float | None]) -> float:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else float("nan")
