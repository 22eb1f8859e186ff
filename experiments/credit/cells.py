"""The cells of the experiment: which rules meet which variants with how many seeds, and how a batch is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.rules import ARMS
from experiments.credit.stacks import run_stack, settings_of
from experiments.credit.train import train
from experiments.credit.variants import VARIANTS
from experiments.digests import CORE, files_in
from experiments.harness import Cell

# What computes a cell besides its rule: where it changes, all cells are computed again.
CODE = (
    *CORE,
    "src/dgpo/lab/tasks/forks/language.py",
    *files_in("experiments/credit", ("layout", "measure", "model", "train", "warm_up")),
)
ALL_ARMS_IN = "small groups"
# What says whether a variant can judge at all, and the paper's rule, at the temperatures that the paper calls good and
# at sharper ones.
EVERYWHERE = (
    "grpo",
    "signed oracle mixed .5",
    "oracle mixed .2",
    "dgpo tau=.5",
    "dgpo tau=.1",
    "dgpo tau=.05",
    "dgpo tau=1",
    "signed in groups mixed .2",
)
# What is asked of the variants that were made for a question.
IN_TELLING_VARIANTS = (
    *EVERYWHERE,
    "signed oracle mixed .2",
    "deviation only tau=.1",
    "entropy only tau=.1",
    "floored .7 tau=.05",
    "positive only tau=.1",
)
TELLING = ("habit", "sparse", "off-policy")
ALSO = {
    "off-policy": ("fipo", "grpo+kl"),
    # The gate is judged at equal shares of the credit: at one tau the gated weights are the more even ones.
    "habit": (
        *(f"{gate}share {percent} %" for percent in (97, 80, 50) for gate in ("", "ungated ")),
        "dgpo tau=.1 kappa=.5",
        "dgpo tau=.1 kappa=2",
    ),
}
# On policy its weights are 1.
OFF_POLICY_ONLY = ("fipo",)


def planned(seeds: Sequence[int], reduced: bool = False) -> list[Cell]:
    """Return all cells, in the order of their importance.

    Args:
        seeds: Of every rule in every variant that it is run in.
        reduced: A small part of it.

    Returns:
        The cells.
    """
    if reduced:
        return [Cell("reduced", rule, seed) for rule in ARMS for seed in seeds]
    pairs = [(variant, rule) for rule in EVERYWHERE for variant in VARIANTS]
    pairs += [(variant, rule) for variant in TELLING for rule in (*IN_TELLING_VARIANTS, *ALSO.get(variant, ()))]
    pairs += [(ALL_ARMS_IN, rule) for rule in ARMS if rule not in OFF_POLICY_ONLY]
    return [Cell(*pair, seed) for pair in dict.fromkeys(pairs) for seed in seeds]


def settings(cell: Cell) -> dict[str, Any]:
    """Return what decides the result of a cell."""
    return settings_of(cell, ARMS, CODE)


def run(cells: Sequence[Cell], options: Sequence[Mapping[str, Any]], *, models: Path) -> list[dict[str, Any]]:
    """Train the seeds of one rule in one variant; see `run_stack`."""
    return run_stack(cells, options, models, arms=ARMS, train=train)
