"""The figures of the experiment, from its committed results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from dgpo.lab.figures import PALETTE, new_figure
from experiments.hindsight.comparison import gains
from experiments.hindsight.rules import GOLD_ARM, LADDER, PEER_ARM
from experiments.report import save_figure


def draw(results: Mapping[str, Any], folder: Path | None = None) -> list[Path]:
    """Write all figures.

    Args:
        results: What `summary.summarize` gives.
        folder: `docs/figures` by default.

    Returns:
        The files.
    """
    rungs = (*LADDER, GOLD_ARM, PEER_ARM)
    ladder = gains(results, rungs, "area")
    hindsight = gains(results, (GOLD_ARM, PEER_ARM), "area")
    variants = [variant for variant in results["rules"] if sum(pair[0] == variant for pair in ladder) > 2]
    return [
        save_figure(
            _bars(rungs, variants, {(arm, v): e for (v, arm), e in ladder.items()}), "hindsight-ladder", folder
        ),
        save_figure(_bars(list(results["rules"]), (GOLD_ARM, PEER_ARM), hindsight), "hindsight-variants", folder),
    ]


def _bars(rows: Sequence[str], series: Sequence[str], estimates: Mapping[tuple[str, str], Estimate]) -> Any:
    """Bars of (row, series), points of the area more than GRPO's, with their intervals."""
    shown = [row for row in rows if any((row, name) in estimates for name in series)]
    figure = new_figure(7, 0.34 * len(shown) + 1.2)
    axes = figure.subplots()
    height = 0.8 / max(len(series), 1)
    for offset, (name, colour) in enumerate(zip(series, PALETTE, strict=False)):
        for place, row in enumerate(shown):
            estimate = estimates.get((row, name))
            if estimate is None:
                continue
            y = place + (offset - (len(series) - 1) / 2) * height
            label = name if (row, name) == next(pair for pair in estimates if pair[1] == name) else None
            axes.barh(y, 100 * estimate.value, height=height, color=colour, alpha=0.8, label=label)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([100 * estimate.low, 100 * estimate.high], [y, y], color="#000000", linewidth=1)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(shown)), shown, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("area under the learning curve less GRPO's, points; simultaneous intervals", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    return figure
