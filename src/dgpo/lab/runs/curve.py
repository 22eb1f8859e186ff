"""Draws a run as one picture: what was learned above, what the redistribution did below."""

from pathlib import Path
from typing import Any

from dgpo.lab.figures import BLUE, GREEN, ORANGE, new_figure
from dgpo.lab.runs.intact import as_finite


def draw_curve(metrics: list[dict[str, Any]], reward_name: str, title: str, path: Path) -> bool:
    """Write the curve of a run: reward and held-out accuracy; below, effective share and Hellinger distance.

    Args:
        metrics: The lines of `metrics.jsonl`.
        reward_name: Name of the first reward function, whose held-out mean is the accuracy.
        title: Stands above the picture.
        path: The PNG file to write.

    Returns:
        Whether there was anything to draw.
    """
    reward = _series(metrics, "reward")
    held_out = _series(metrics, f"eval_rewards/{reward_name}/mean")
    if not reward and not held_out:
        return False
    figure = new_figure(7.5, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    upper.plot(*_columns(reward), color=BLUE, alpha=0.3, linewidth=1)
    upper.plot(*_columns(_smooth(reward)), color=BLUE, linewidth=1.8, label="reward (mean of 10 logs)")
    if held_out:
        # A line between two points would suggest measurements in between.
        line = "--" if len(held_out) > 2 else ""
        upper.plot(*_columns(held_out), color=ORANGE, marker="o", linestyle=line, label="held-out accuracy")
    upper.set_title(title)
    upper.set_ylabel("reward, accuracy")
    upper.legend(loc="best", frameon=False)
    upper.grid(alpha=0.25)
    _draw_credit(lower, metrics)
    figure.savefig(path, dpi=130)
    return True


def _draw_credit(axes: Any, metrics: list[dict[str, Any]]) -> None:
    share, distance = _series(metrics, "dgpo/effective_share"), _series(metrics, "dgpo/hellinger_sq/mean")
    axes.plot(*_columns(share), color=GREEN, label="effective share of tokens (left)")
    axes.set_ylabel("effective share")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    other = axes.twinx()
    other.plot(*_columns(distance), color=ORANGE, label="squared Hellinger distance to the reference (right)")
    other.set_ylabel("H²")
    other.set_ylim(bottom=0)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], loc="best", frameon=False)


def _series(metrics: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    points = ((line["step"], as_finite(line.get(key))) for line in metrics)
    return [(step, value) for step, value in points if value is not None]


def _columns(series: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in series], [value for _, value in series]


def _smooth(series: list[tuple[int, float]], window: int = 10) -> list[tuple[int, float]]:
    smoothed = []
    for index, (step, _) in enumerate(series):
        recent = [value for _, value in series[max(0, index + 1 - window) : index + 1]]
        smoothed.append((step, sum(recent) / len(recent)))
    return smoothed
