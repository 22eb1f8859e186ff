"""The figures of the experiment, from its results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.lab.figures import PALETTE, new_figure
from experiments.report import save_figure
from experiments.smollm2 import summary
from experiments.smollm2.rules import ARMS


def draw(results: Mapping[str, Any], folder: Path | None = None) -> None:
    """Draw one figure per task: reward, entropy, gradient norm and effective share.

    Args:
        results: What the command has written.
        folder: `docs/figures` by default.
    """
    curves = {
        "reward": "reward",
        "entropy": "entropy, nats",
        "grad_norm": "gradient norm",
        "effective_share": "ESS / T",
    }
    for task, rules in summary.trained(results).items():
        figure = new_figure(11, 3)
        panels = figure.subplots(1, len(curves))
        for axes, (name, title) in zip(panels, curves.items(), strict=True):
            for rule in rules:
                points = summary.curve(results, task, rule, name)
                place = list(ARMS).index(rule)
                style = {"color": PALETTE[place % len(PALETTE)], "linestyle": "-:"[place // len(PALETTE)]}
                axes.plot(range(1, len(points) + 1), points, label=ARMS[rule].label, linewidth=1.2, **style)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
        save_figure(figure, f"smollm2-{task.replace('_', '-')}-rules", folder)
