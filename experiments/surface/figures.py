"""The figure of the experiment, from its committed results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.lab.figures import PALETTE, new_figure
from experiments.report import save_figure
from experiments.surface.comparison import by_axis, differences
from experiments.surface.points import TAUS


def draw(results: Mapping[str, Any], folder: Path | None = None) -> list[Path]:
    """Write the figure.

    Args:
        results: What `summary.summarize` gives.
        folder: `docs/figures` by default.

    Returns:
        The file, if there is anything to show.
    """
    panels, found = by_axis(results), differences(results)
    if not panels:
        return []
    columns = 3
    rows = -(-len(panels) // columns)
    figure = new_figure(3.4 * columns, 2.6 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    for one, (axis, points) in zip(axes, panels.items(), strict=False):
        for offset, (method, colour) in enumerate(zip(TAUS, PALETTE, strict=False)):
            shown = [(place, found[point, method]) for place, point in enumerate(points)]
            places = [place + 0.16 * (offset - (len(TAUS) - 1) / 2) for place, _ in shown]
            values = [100 * estimate.value for _, estimate in shown]
            arms = [100 * ((estimate.high or estimate.value) - estimate.value) for _, estimate in shown]
            one.errorbar(places, values, arms, fmt="o", color=colour, label=method, capsize=2, markersize=4)
        one.axhline(0, color="#000000", linewidth=0.8)
        one.set_xticks(range(len(points)), [point.value for point in points], fontsize=7)
        one.set_title(axis, fontsize=9)
    axes[0].set_ylabel("area less GRPO's, points;\nsimultaneous intervals", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return [save_figure(figure, "surface", folder)]
