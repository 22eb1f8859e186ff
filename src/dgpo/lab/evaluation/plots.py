"""Draws pass@k against k, with the band of its interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.lab.figures import PALETTE, new_figure


def draw_pass_at_k(results: Mapping[str, dict[str, Any]], title: str, path: Path) -> None:
    """Write the pass@k curves of one or several results as a PNG file.

    Args:
        results: Name to what `result.json` holds.
        title: Stands above the picture.
        path: The file to write.
    """
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for index, (name, result) in enumerate(results.items()):
        colour = PALETTE[index % len(PALETTE)]
        curve = {int(key[5:]): estimate for key, estimate in result["metrics"].items() if key.startswith("pass@")}
        ks = sorted(curve)
        axes.plot(ks, [curve[k]["value"] for k in ks], color=colour, marker="o", markersize=3, label=name)
        if curve[ks[0]]["low"] is not None:
            low, high = ([curve[k][end] for k in ks] for end in ("low", "high"))
            axes.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1)
    axes.set_xlabel("k, completions tried")
    axes.set_ylabel("pass@k with 95 % interval over problems")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(title)
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
