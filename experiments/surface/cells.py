"""The cells of the experiment, and how a batch of them is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.cells import CODE
from experiments.credit.stacks import run_stack, settings_of
from experiments.credit.train import train
from experiments.credit.variants import Variant
from experiments.harness import Cell
from experiments.surface.points import ARMS, GRPO, POINTS, SETTINGS, TAUS


def planned(seeds: Sequence[int], reduced: bool = False) -> list[Cell]:
    """Return all cells, the longest first: the last ones leave a process without work otherwise.

    Args:
        seeds: Of every arm at every point.
        reduced: A small part of it.

    Returns:
        The cells.
    """
    if reduced:
        return [Cell("reduced", rule, seed) for rule in ARMS for seed in seeds]
    pairs = [(point.variant, point.arm(method)) for point in POINTS for method in (GRPO, *TAUS)]
    pairs.sort(key=lambda pair: _size(SETTINGS[pair[0]]), reverse=True)
    return [Cell(*pair, seed) for pair in dict.fromkeys(pairs) for seed in seeds]


def _size(variant: Variant) -> tuple[int, int]:
    """Sampling goes token by token, so that the length of completions counts most."""
    return variant.warm_up.layout.length, variant.num_updates * variant.num_rollouts


def settings(cell: Cell) -> dict[str, Any]:
    """Return what decides the result of a cell."""
    return settings_of(cell, ARMS, CODE, variants=SETTINGS)


def run(cells: Sequence[Cell], options: Sequence[Mapping[str, Any]], *, models: Path) -> list[dict[str, Any]]:
    """Train the seeds of one arm at one point; see `run_stack`."""
    return run_stack(cells, options, models, arms=ARMS, train=train)
