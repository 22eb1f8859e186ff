"""Shared by the experiments on forks: the variant of a cell, what decides its result, and training a stack of seeds."""

import ctypes
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.credit.layout import Layout
from experiments.credit.variants import REDUCED, VARIANTS, Variant, WarmUp
from experiments.digests import digest_of_files
from experiments.harness import Cell

# Seeds that are trained as one stack, which takes less time than two of half the size; a stack is a unit of work, and
# of loss when a process dies.
STACK = 10


NAMED = VARIANTS | {"reduced": REDUCED}


def variant_named(name: str) -> Variant:
    """Return a variant by name, `"reduced"` included."""
    return NAMED[name]


def settings_of(
    cell: Cell, arms: Mapping[str, Any], code: Sequence[str], *, variants: Mapping[str, Variant] = NAMED
) -> dict[str, Any]:
    """Return what decides the result of a cell: the variant, what the arm does, and the code that trains."""
    options = dataclasses.asdict(variants[cell.variant])
    options.pop("why")
    return options | {"rule": arms[cell.rule].digest(), "code": digest_of_files(code)}


def stack_of(cell: Cell) -> tuple[str, str, int]:
    """Return the key of the stack that a cell is trained in."""
    return cell.variant, cell.rule, cell.seed // STACK


def run_stack(
    cells: Sequence[Cell],
    options: Sequence[Mapping[str, Any]],
    models: Path,
    *,
    arms: Mapping[str, Any],
    train: Callable[..., list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Train the seeds of one arm in one variant.

    Args:
        cells: Of one variant and one arm.
        options: `settings_of` each, all equal.
        models: Folder of the warmed-up models.
        arms: The arms by name.
        train: Trains some seeds of an arm in a variant.

    Returns:
        One record per cell.
    """
    _keep_memory()
    chosen = dict(options[0])
    arm = arms[cells[0].rule]
    if chosen.pop("rule") != arm.digest():
        raise RuntimeError(f"{cells[0].rule} is another rule in this process: rules are read from rules.ARMS.")
    chosen.pop("code")
    warm_up = dict(chosen.pop("warm_up"))
    variant = Variant("", WarmUp(Layout(**warm_up.pop("layout")), **warm_up), **chosen)
    # How many are asked in the full experiment stands in `train`, whose code is part of the key.
    fewer = {"eval_prompts": 8} if cells[0].variant == "reduced" else {}
    return train(variant, arm, [cell.seed for cell in cells], models, **fewer)


def _keep_memory() -> None:
    """Have glibc keep freed memory: giving it back and faulting it in again cost a fifth of the time."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass
