"""Figures of the experiment, from its committed results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgpo.lab.figures import PALETTE, new_figure
from experiments.gradient_stability import summary
from experiments.gradient_stability.theory import TERMS
from experiments.gradient_stability.training import BETA, RULES
from experiments.report import save_figure

_THEORY = {
    "surrogate": (TERMS["surrogate"].label, 1.0),
    "dgpo_tau0.5": ("DGPO, tau = 0.5", 1.0),
    "dgpo_tau0.05": ("DGPO, tau = 0.05", 1.0),
    "k3": (f"{BETA} x {TERMS['k3'].label}", BETA),
    "k1_in_reward": (f"{BETA} x {TERMS['k1_in_reward'].label}", BETA),
    "reverse_kl": (f"{BETA} x {TERMS['reverse_kl'].label}", BETA),
}
_SIDES = {
    "reference": "reference's probability of a word\nthat the policy says with 1/4",
    "policy": "policy's probability of a word\nto which the reference gives 1/4",
    "stale": "the same, completions sampled\nbefore the policy lost the word",
}


def draw(results: Mapping[str, Any], folder: Path | None = None) -> None:
    """Draw both figures.

    Args:
        results: What the command has written.
        folder: `docs/figures` by default.
    """
    save_figure(_theory(results), "gradient-stability-theory", folder)
    save_figure(_runs(results), "gradient-stability-runs", folder)


def _theory(results: Mapping[str, Any]) -> Any:
    figure = new_figure(9, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"reference": "reference's probability q, p = 1/4", "policy": "policy's probability p, q = 1/4"}
    for axes, (side, title) in zip(panels, titles.items(), strict=True):
        rows = results["theory"][side]
        for (name, (label, factor)), colour in zip(_THEORY.items(), PALETTE, strict=False):
            points = [factor * row[name] for row in rows]
            axes.loglog([row["probability"] for row in rows], points, label=label, color=colour)
        axes.invert_xaxis()
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("gradient norm, one token's logits")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _runs(results: Mapping[str, Any]) -> Any:
    figure = new_figure(10, 3.6)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (side, title) in zip(panels, _SIDES.items(), strict=True):
        for (rule, (label, _)), colour in zip(RULES.items(), PALETTE, strict=False):
            points = summary.along(results, side, rule, "largest")
            if points:
                axes.loglog(*zip(*points, strict=True), label=label, color=colour, marker="o", markersize=3)
        axes.invert_xaxis()
        axes.set_xlabel(title, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("largest gradient norm")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
