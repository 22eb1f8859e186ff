"""The cells of the experiment: which arms meet which variants with how many seeds, and how a batch is computed."""

import ctypes
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.layout import Layout
from experiments.credit.variants import REDUCED, VARIANTS, Variant, WarmUp
from experiments.digests import CORE, digest_of_files, files_in
from experiments.harness import Cell
from experiments.hindsight.rules import ARMS, GOLD_ARM, HINTS, PEER_ARM, RATED
from experiments.hindsight.train import train

CODE = (
    *CORE,
    "src/dgpo/core/hindsight.py",
    "src/dgpo/lab/tasks/forks/language.py",
    *files_in("experiments/credit", ("layout", "model", "train", "warm_up")),
    *files_in("experiments/hindsight", ("hints", "record", "signals", "starts", "train", "trees")),
)
STACK = 10
"""Seeds that are trained as one stack."""
EVERYWHERE = (HINTS, GOLD_ARM, PEER_ARM)
"""In all variants."""
TWO = ("small groups", "sparse")
"""Those in which there is something to gain: all other arms run in these."""
FIRST = (
    *("grpo", "exact advantage", "right or wrong", "no hint is true", "gold 1 in 4 wrong", "gold refreshed 1"),
    *("gold scaled by completion", "peer scaled by completion", "gold without d", "values noise 1"),
    *("which tokens decide", "tree at random", "tree at d*h", "tree at decisions"),
    *("values noise 2", "grpo hinted .7", "gold trust .7", "gold mix .1", "gold mix .5", "gold 1 in 2 wrong"),
    *("gold refreshed 10", "gold refreshed 40", "grpo hinted .5", "gold trust .5", "peer mix .5"),
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
    pairs = [(variant, rule) for variant in TWO for rule in EVERYWHERE]
    pairs += [(variant, rule) for variant in VARIANTS for rule in EVERYWHERE]
    pairs += [(variant, rule) for rule in (*FIRST, *ARMS) for variant in TWO]
    cells = [Cell(*pair, seed) for pair in dict.fromkeys(pairs) for seed in seeds]
    if len(seeds) < len(CHOSEN_ON):
        return cells  # a part, which decides nothing
    rates = [(variant, rule) for rule in (HINTS, GOLD_ARM, *RATED) for variant in TWO]
    return cells + [Cell(*pair, seed) for pair in rates for seed in CHOSEN_ON if seed not in seeds]


def variant_named(name: str) -> Variant:
    """Return a variant by name, `"reduced"` included."""
    return REDUCED if name == "reduced" else VARIANTS[name]


def settings(cell: Cell) -> dict[str, Any]:
    """Return what decides the result of a cell: the variant, what the arm does, and the code that trains."""
    options = dataclasses.asdict(variant_named(cell.variant))
    options.pop("why")
    return options | {"rule": ARMS[cell.rule].digest(), "code": digest_of_files(CODE)}


def stack_of(cell: Cell) -> tuple[str, str, int]:
    """Return the key of the stack that a cell is trained in."""
    return cell.variant, cell.rule, cell.seed // STACK


def run(cells: Sequence[Cell], options: Sequence[Mapping[str, Any]], *, models: Path) -> list[dict[str, Any]]:
    """Train the seeds of one arm in one variant.

    Args:
        cells: Of one variant and one arm.
        options: `settings` of each, all equal.
        models: Folder of the warmed-up models.

    Returns:
        One record per cell.
    """
    keep_memory()
    chosen = dict(options[0])
    if chosen.pop("rule") != settings(cells[0])["rule"]:
        raise RuntimeError(f"{cells[0].rule} is another arm in this process: arms are read from rules.ARMS.")
    chosen.pop("code")
    warm_up = dict(chosen.pop("warm_up"))
    variant = Variant("", WarmUp(Layout(**warm_up.pop("layout")), **warm_up), **chosen)
    fewer = {"eval_prompts": 8} if cells[0].variant == "reduced" else {}
    return train(variant, ARMS[cells[0].rule], [cell.seed for cell in cells], models, **fewer)


def keep_memory() -> None:
    """Have glibc keep freed memory: giving it back and faulting it in again cost a fifth of the time."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass
