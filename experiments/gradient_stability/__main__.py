"""`python -m experiments.gradient_stability`: the formulas along both sweeps, and the short trainings."""

import functools
import shutil
import sys
from collections.abc import Iterator, Sequence

from experiments._harness import CACHE, Cell, run_cells, write_json
from experiments._options import argument_parser, folder_of_results
from experiments.gradient_stability.page import draw
from experiments.gradient_stability.summary import RESULTS, UNSWEPT
from experiments.gradient_stability.theory import sweeps
from experiments.gradient_stability.training import RULES, run, settings_of

NAME = "gradient_stability"
SWEEPS = {
    "reference": (("1e-2", "1e-4", "1e-8", "1e-12"), tuple(rule for rule in RULES if rule != "grpo")),
    "policy": (("1e-2", "1e-3", "1e-4"), ("grpo", "dgpo", "dgpo-sharp", "k3", "reverse-kl")),
    "stale": (("1e-2", "1e-3", "1e-4", "1e-6"), ("grpo", "dgpo", "dgpo-sharp", "k3", "reverse-kl")),
}
"""Probabilities and rules of each; GRPO does not look at the reference."""
SEEDS = tuple(range(5))
REDUCED = {"steps": 2, "prompts": 2, "num_generations": 4, "warm_up_steps": 40, "num_forks": 2}


def grid(seeds: Sequence[int], *, reduced: bool) -> Iterator[Cell]:
    """Yield the cells, seed by seed."""
    for seed in seeds:
        for rule in RULES:
            yield Cell(UNSWEPT, rule, seed)
        for side, (probabilities, rules) in SWEEPS.items():
            for probability in probabilities[-1:] if reduced else probabilities:
                for rule in rules:
                    yield Cell(f"{side}={probability}", rule, seed)


def main() -> int:
    """Run the experiment.

    Returns:
        0, or 1 if a cell failed.
    """
    parser = argument_parser(__doc__ or "", seeds="0-4")
    options = parser.parse_args()
    overrides = REDUCED if options.reduced else {}
    models = (options.cache or CACHE) / NAME / "models"
    if options.fresh and not options.no_compute:
        shutil.rmtree(models, ignore_errors=True)
    outcome = run_cells(
        NAME,
        grid(options.seeds or (SEEDS[:1] if options.reduced else SEEDS), reduced=options.reduced),
        functools.partial(run, models=models),
        lambda cell: settings_of(cell, overrides),
        # Models are loaded once per process either way; a batch of one seed keeps the bar moving.
        batch=lambda cell: (cell.variant, cell.seed),
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        compute=not options.no_compute,
        quiet=options.quiet,
    )
    out = folder_of_results(options, grid(SEEDS, reduced=False), outcome, RESULTS.parent)
    if out is not None and outcome.results:
        rows = [
            {"variant": cell.variant, "rule": cell.rule, "seed": cell.seed, **result}
            for cell, result in outcome.results.items()
        ]
        write_json(out / RESULTS.name, {"record": outcome.record, "theory": sweeps(), "cells": rows})
        draw(None if out == RESULTS.parent else out)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
