"""The figures of the experiment, from its committed results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo.lab.figures import PALETTE, new_figure
from experiments.credit import comparison
from experiments.credit.rules import ARMS
from experiments.report import save_figure

CURVES = ("grpo", "dgpo tau=.5", "dgpo tau=.1", "dgpo tau=.05", "entropy only tau=.1")
_BAND = 0.15


def draw(results: Mapping[str, Any], folder: Path | None = None) -> list[Path]:
    """Write all figures.

    Args:
        results: What `summary.summarize` gives.
        folder: `docs/figures` by default.

    Returns:
        The files.
    """
    return [
        save_figure(_curves(results), "credit-curves", folder),
        save_figure(_differences(results), "credit-differences", folder),
        save_figure(_by_role(results, "d", "mean squared Hellinger distance"), "credit-drift", folder),
        save_figure(_shares(results), "credit-shares", folder),
    ]


def main_variant(results: Mapping[str, Any]) -> str:
    """Return the variant in which most rules were run."""
    return max(results["rules"], key=lambda variant: len(results["rules"][variant]))


def _panels(count: int, *, width: float = 3.6, height: float = 2.7, columns: int = 4) -> tuple[Any, list[Any]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def _curves(results: Mapping[str, Any]) -> Any:
    figure, panels = _panels(len(results["rules"]), width=2.8, height=2.2)
    for axes, (variant, rules) in zip(panels, results["rules"].items(), strict=True):
        best = comparison.headroom(results, variant)
        for colour, rule in zip(PALETTE, [name for name in CURVES if name in rules], strict=False):
            _line(axes, rules[rule]["curve"], colour, rule)
        if best is not None:
            _line(axes, rules[best[0]]["curve"], "#000000", "best ceiling", dashed=True)
        axes.set_title(variant, fontsize=9)
        axes.set_ylim(0, 1)
        axes.set_xlabel("rollout", fontsize=8)
    panels[0].set_ylabel("reward, mean and standard error", fontsize=8)
    fullest = max(panels, key=lambda axes: len(axes.get_lines()))
    handles, labels = fullest.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, ncols=len(labels), loc="outside lower center")
    return figure


def _line(axes: Any, curve: Mapping[str, Sequence[float]], colour: str, label: str, *, dashed: bool = False) -> None:
    x, mean, error = curve["rollout"], curve["mean"], curve["error"]
    axes.plot(x, mean, color=colour, label=label, linewidth=1.3, linestyle="--" if dashed else "-")
    low, high = ([m + side * e for m, e in zip(mean, error, strict=True)] for side in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=_BAND, linewidth=0)


def _differences(results: Mapping[str, Any]) -> Any:
    variant = main_variant(results)
    rules = [*comparison.names(results, variant, ceilings=True), *comparison.names(results, variant, ceilings=False)]
    figure = new_figure(9, 0.24 * len(rules) + 1.2)
    ceilings = results["rules"][variant]
    for axes, (figure_name, title) in zip(
        figure.subplots(1, 2, sharey=True),
        (("area", "area under the curve"), ("accuracy", "held-out accuracy, T = 1")),
        strict=True,
    ):
        for row, rule in enumerate(rules):
            estimate = comparison.difference(results, variant, rule, figure_name)
            colour = PALETTE[4] if ceilings[rule]["ceiling"] else PALETTE[0]
            axes.barh(row, estimate.value, color=colour, alpha=0.7)
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high], [row, row], color="#000000", linewidth=1)
        axes.axvline(0, color="#000000", linewidth=0.8)
        axes.set_title(f"{title}: difference from GRPO", fontsize=9)
    axes.set_yticks(range(len(rules)), rules, fontsize=7)
    axes.invert_yaxis()
    figure.suptitle(f"{variant}: paired over seeds, 95 % each; orange: ceilings", fontsize=9)
    return figure


def _by_role(results: Mapping[str, Any], figure_name: str, label: str) -> Any:
    variant = main_variant(results)
    rules = results["rules"][variant]
    shown = [rule for rule in ("grpo", "grpo+kl", "dgpo tau=.1", "dgpo tau=.05", "oracle") if rule in rules]
    figure, panels = _panels(len(shown), width=2.7, columns=5)
    for axes, rule in zip(panels, shown, strict=True):
        credit = rules[rule]["credit"]
        for colour, role in zip(PALETTE, [role for role in credit if role != "step"], strict=False):
            axes.plot(credit["step"], credit[role][figure_name], color=colour, label=role, linewidth=1.3)
        axes.set_title(rule, fontsize=9)
        axes.set_xlabel("rollout", fontsize=8)
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)
    panels[0].set_ylabel(label, fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    return figure


def _shares(results: Mapping[str, Any]) -> Any:
    variant = main_variant(results)
    rules = [rule for rule in ARMS if rule in results["rules"][variant]]
    figure = new_figure(7, 0.22 * len(rules) + 1)
    axes = figure.subplots()
    left = [0.0] * len(rules)
    roles = [role for role in results["rules"][variant]["grpo"]["credit"] if role != "step"]
    for colour, role in zip(PALETTE, roles, strict=False):
        widths = [late_share(results, variant, rule, role) for rule in rules]
        axes.barh(range(len(rules)), widths, left=left, color=colour, label=role)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rules)), rules, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title(f"{variant}: share of the credit by role, second half of the training", fontsize=9)
    figure.legend(fontsize=7, ncols=len(roles), loc="outside lower center", frameon=False)
    return figure


def late_share(results: Mapping[str, Any], variant: str, rule: str, role: str) -> float:
    """Return the share of the credit that a role got in the second half of the training."""
    credit = results["rules"][variant][rule]["credit"]
    if role not in credit:
        return 0.0
    values = [value for value in credit[role]["credit"] if value is not None]
    late = values[len(values) // 2 :]
    return sum(late) / len(late) if late else 0.0
