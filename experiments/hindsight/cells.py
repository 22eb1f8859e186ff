"""The cells of the experiment: which arms meet which variants with how many seeds, and how a batch is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.stacks import run_stack, settings_of
from experiments.credit.variants import VARIANTS
from experiments.digests import CORE, files_in
from experiments.harness import Cell
from experiments.hindsight.rules import ARMS, CHECKED, GOLD_ARM, HINTS, PEER_ARM, RATED
from experiments.hindsight.train import train

CODE = (
    *CORE,
    "src/dgpo/core/hindsight.py",
    "src/dgpo/lab/tasks/forks/language.py",
    *files_in("experiments/credit", ("layout", "model", "train", "warm_up")),
    *files_in("experiments/hindsight", ("hints", "record", "signals", "starts", "train", "trees")),
)
EVERYWHERE = (HINTS, GOLD_ARM, PEER_ARM, f"{GOLD_ARM}, checked")
"""In all variants."""
RUNGS = ("grpo", "exact advantage", "values noise 1", "right or wrong", "which tokens decide")
"""Of the ladder, those that run in all variants."""
TWO = ("small groups", "sparse")
"""Those in which there is something to gain: all other arms run in these."""
FIRST = (
    *("grpo", "exact advantage", "right or wrong", "no hint is true", "gold 1 in 4 wrong", "gold refreshed 1"),
    *("grpo hinted .5", "gold trust .5", "gold trust .5 without floor", "gold without d", "values noise 1"),
    *("which tokens decide", "tree at random", "tree at d*h", "tree at decisions"),
    *("values noise 2", "grpo hinted .7", "gold trust .7", "gold mix .1", "gold mix .5", "gold 1 in 2 wrong"),
    *("gold against wrong", "gold against other", "gold 1 in 4 wrong, against other"),
    *("gold refreshed 10", "gold refreshed 40", "peer mix .5", "gold scaled over the group"),
)
"""In the order of importance: a run that is stopped has answered the principal questions."""
CHOSEN_ON = range(10, 20)
"""Seeds on which learning rates are chosen; nothing else is looked at on them."""


def planned(seeds: Sequence[int], reduced: bool = False) -> list[Cell]:
    """Return all cells, in the order of their importance.

    Args:
        seeds: Of every arm in every variant that it is run in.
        reduced: A small part of it.

    Returns:
        The cells.
    """
    if reduced:
        return [Cell("reduced", rule, seed) for rule in ARMS for seed in seeds]
    # Neighbours start from different models, so that no two processes warm up the same one.
    pairs = [(variant, rule) for variants in (TWO, VARIANTS) for rule in EVERYWHERE for variant in variants]
    pairs += [(variant, rule) for rule in FIRST for variant in TWO]
    pairs += [(variant, rule) for rule in CHECKED for variant in TWO]
    pairs += [(variant, rule) for variant in VARIANTS for rule in RUNGS]
    pairs += [(variant, rule) for rule in ARMS for variant in TWO]
    cells = [Cell(*pair, seed) for pair in dict.fromkeys(pairs) for seed in seeds]
    if len(seeds) < len(CHOSEN_ON):
        return cells  # a part, which decides nothing
    rates = [(variant, rule) for rule in (HINTS, GOLD_ARM, *RATED) for variant in TWO]
    return cells + [Cell(*pair, seed) for pair in rates for seed in CHOSEN_ON if seed not in seeds]


def settings(cell: Cell) -> dict[str, Any]:
    """Return what decides the result of a cell."""
    return settings_of(cell, ARMS, CODE)


def run(cells: Sequence[Cell], options: Sequence[Mapping[str, Any]], *, models: Path) -> list[dict[str, Any]]:
    """Train the seeds of one arm in one variant; see `run_stack`."""
    return run_stack(cells, options, models, arms=ARMS, train=train)
