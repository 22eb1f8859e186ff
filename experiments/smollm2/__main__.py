"""`python -m experiments.smollm2`: needs the model of `make smollm2`."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments._harness import Cell, run_cells, write_json
from experiments._options import argument_parser, folder_of_results
from experiments.smollm2.page import draw
from experiments.smollm2.rules import BASE, REDUCED, RULES, TASKS
from experiments.smollm2.training import run, settings_of

NAME = "smollm2"
RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)


def grid(tasks: Iterable[str], rules: Iterable[str], seeds: Iterable[int]) -> Iterator[Cell]:
    """Yield the cells, seed by seed, so that a run that is cut short has compared all rules on some seeds."""
    seeds, rules = list(seeds), list(rules)
    for task in tasks:
        for seed in seeds:
            for rule in (BASE, *rules):
                yield Cell(task, rule, seed)


def main() -> int:
    """Run the experiment.

    Returns:
        0, or 1 if a cell failed.
    """
    parser = argument_parser(__doc__ or "", seeds="0-2")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    options = parser.parse_args()
    overrides = REDUCED if options.reduced else {}

    def settings(cell: Cell) -> dict[str, object]:
        return settings_of(cell, overrides)

    outcome = run_cells(
        NAME,
        grid(options.tasks, options.rules, options.seeds or (SEEDS[:1] if options.reduced else SEEDS)),
        run,
        settings,
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        compute=not options.no_compute,
        quiet=options.quiet,
    )
    out = folder_of_results(options, grid(TASKS, RULES, SEEDS), outcome, RESULTS)
    if out is not None and outcome.results:
        rows = [
            {
                "cell": [cell.variant, cell.rule, cell.seed],
                "settings": settings(cell),
                "made": outcome.made[cell],
                **result,
            }
            for cell, result in outcome.results.items()
        ]
        write_json(out / "results.json", {"record": outcome.record, "cells": rows})
        draw(None if out == RESULTS else out)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
