"""The figures of a run, from its metrics: accuracy before and after with an interval, reward at both ends."""

import math
from typing import Any

from dgpo.lab.runs.files import AFTER, BEFORE, TRAIN
from dgpo.lab.runs.intact import as_finite

_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson_interval(mean: float, count: int) -> tuple[float, float] | None:
    """Return the 95 % score interval of a share (Wilson 1927).

    With z = 1.96: centre `(p + z^2/2n) / (1 + z^2/n)`, half width `z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)`.
    Over prompts instead of completions it is exact for one completion a prompt and too wide, never too narrow, for
    several, as the completions of a prompt are alike.

    Args:
        mean: The share, in [0, 1].
        count: Number of independent prompts.

    Returns:
        Low and high end; `None` if `mean` is no share or there are no prompts.

    Example:
        >>> low, high = wilson_interval(0.5, 100)
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    if count < 1 or not 0.0 <= mean <= 1.0:
        return None
    scale = 1 + _Z95**2 / count
    centre = (mean + _Z95**2 / (2 * count)) / scale
    half = _Z95 * math.sqrt(mean * (1 - mean) / count + _Z95**2 / (4 * count**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(metrics: list[dict[str, Any]], phase: str, reward_name: str, prompts: int) -> dict[str, Any] | None:
    """Return the held-out accuracy of a phase as a mapping with its interval, or `None` if it was not measured.

    Args:
        metrics: The lines of `metrics.jsonl`.
        phase: Before or after training.
        reward_name: Name of the first reward function.
        prompts: Held-out prompts there are.

    Returns:
        Mean, the prompts that it is over (those with a score) and how many were asked, and a Wilson interval.
    """
    key = f"eval_rewards/{reward_name}/mean"
    lines = [line for line in metrics if line.get("phase") == phase and as_finite(line.get(key)) is not None]
    if not lines:
        return None
    mean, line = lines[-1][key], lines[-1]
    scored = as_finite(line.get(f"eval_rewards/{reward_name}/prompts"))
    scored = prompts if scored is None else round(scored)
    result: dict[str, Any] = {"mean": mean, "prompts": scored, "asked": prompts}
    interval = wilson_interval(mean, scored)
    if interval:
        result |= {"low": interval[0], "high": interval[1], "interval": "Wilson, 95 %, over prompts"}
    return result


def prompts_text(measured: dict[str, Any]) -> str:
    """Return how many prompts an accuracy is over, and of how many.

    Args:
        measured: What `accuracy` returned.

    Returns:
        Words.

    Example:
        >>> prompts_text({"prompts": 1, "asked": 8}), prompts_text({"prompts": 8, "asked": 8})
        ('1 of 8 prompts could be scored', '8 prompts')
    """
    scored, asked = measured["prompts"], measured.get("asked", measured["prompts"])
    return f"{scored} prompts" if scored == asked else f"{scored} of {asked} prompts could be scored"


def summarize(
    metrics: list[dict[str, Any]],
    *,
    reward_name: str,
    eval_prompts: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return the figures of a run.

    Args:
        metrics: The lines of `metrics.jsonl`.
        reward_name: Name of the first reward function.
        eval_prompts: Number of held-out prompts.
        facts: What to add: status, task, model, generation share.

    Returns:
        A mapping for `summary.json`; figures that are unknown are `None`.
    """
    rewards = _values([line for line in metrics if line.get("phase") == TRAIN], "reward")
    few = max(1, min(10, len(rewards) // 2))  # of a short run, its halves
    shares = _values(metrics, "differing_groups")
    return {
        **facts,
        "steps": max((line["step"] for line in metrics), default=0),
        "held_out_accuracy": {
            "reward": reward_name,
            BEFORE: accuracy(metrics, BEFORE, reward_name, eval_prompts),
            AFTER: accuracy(metrics, AFTER, reward_name, eval_prompts),
        },
        "differing_groups": _mean(shares),
        "reward_first_10_logs": _mean(rewards[:few]),
        "reward_last_10_logs": _mean(rewards[-few:]),
        "train_seconds": max(_values(metrics, "wall_seconds"), default=0.0),
    }


def accuracy_text(measured: dict[str, Any] | None) -> str:
    """Return an accuracy for people.

    Args:
        measured: What `accuracy` returned.

    Returns:
        The mean with its interval.

    Example:
        >>> accuracy_text({"mean": 0.5, "low": 0.404, "high": 0.596})
        '0.500 (0.404 to 0.596)'
    """
    if measured is None:
        return "not measured"
    interval = f" ({measured['low']:.3f} to {measured['high']:.3f})" if "low" in measured else ""
    return f"{measured['mean']:.3f}{interval}"


def _values(lines: list[dict[str, Any]], name: str) -> list[float]:
    """The finite numbers under a name; a damaged line may hold anything."""
    values = (as_finite(line.get(name)) for line in lines)
    return [value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
