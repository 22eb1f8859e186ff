"""The cells of the experiment: which rules meet which variants with how many seeds, and how a batch is computed."""

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.layout import Layout
from experiments.credit.rules import ARMS
from experiments.credit.train import train
from experiments.credit.variants import REDUCED, VARIANTS, Variant, WarmUp
from experiments.digests import CORE, digest_of_files, files_in
from experiments.harness import Cell

# What computes a cell besides its rule: where it changes, all cells are computed again.
CODE = (
    *CORE,
    "src/dgpo/lab/tasks/forks/language.py",
    *files_in("experiments/credit", ("layout", "measure", "model", "train", "warm_up")),
)
# Seeds that are trained as one stack, which takes less time than two of half the size; a stack is a unit of work, and
# of loss when a process dies.
STACK = 10
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


def variant_named(name: str) -> Variant:
    """Return a variant by name, `"reduced"` included."""
    return REDUCED if name == "reduced" else VARIANTS[name]


def settings(cell: Cell) -> dict[str, Any]:
    """Return what decides the result of a cell: the variant, what the rule does, and the code that trains."""
    options = dataclasses.asdict(variant_named(cell.variant))
    options.pop("why")
    return options | {"rule": ARMS[cell.rule].digest(), "code": digest_of_files(CODE)}


def stack_of(cell: Cell) -> tuple[str, str, int]:
    """Return the key of the stack that a cell is trained in."""
    return cell.variant, cell.rule, cell.seed // STACK


def run(cells: Sequence[Cell], options: Sequence[Mapping[str, Any]], *, models: Path) -> list[dict[str, Any]]:
    """Train the seeds of one rule in one variant.

    Args:
        cells: Of one variant and one rule.
        options: `settings` of each, all equal.
        models: Folder of the warmed-up models.

    Returns:
        One record per cell.
    """
    _keep_memory()
    chosen = dict(options[0])
    if chosen.pop("rule") != settings(cells[0])["rule"]:
        raise RuntimeError(f"{cells[0].rule} is another rule in this process: rules are read from rules.ARMS.")
    chosen.pop("code")
    warm_up = dict(chosen.pop("warm_up"))
    config = WarmUp(Layout(**warm_up.pop("layout")), **warm_up)
    variant = Variant("", config, **chosen)
    # How many are asked in the full experiment stands in `train`, whose code is part of the key.
    fewer = {"eval_prompts": 8} if cells[0].variant == "reduced" else {}
    return train(variant, ARMS[cells[0].rule], [cell.seed for cell in cells], models, **fewer)


def _keep_memory() -> None:
    """Have glibc keep freed memory: giving it back and faulting it in again cost a fifth of the time."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass
