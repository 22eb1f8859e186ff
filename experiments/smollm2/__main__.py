"""`python -m experiments.smollm2`: needs the model of `make smollm2`."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments._harness import CACHE, Cell, _path, argument_parser, run_cells, write_json
from experiments.smollm2.rules import BASE, REDUCED, RULES, TASKS
from experiments.smollm2.training import run, settings_of

NAME = "smollm2"
RESULTS = Path(__file__).parent / "results" / "results.json"


def grid(tasks: Iterable[str], rules: Iterable[str], seeds: Iterable[int]) -> Iterator[Cell]:
    """Yield the cells, seed by seed, so that a run that is cut short has compared all rules on some seeds."""
    seeds, rules = list(seeds), list(rules)
    for task in tasks:
        for seed in seeds:
            for rule in (BASE, *rules):
                yield Cell(task, rule, seed)


def main() -> int:
    """Run the experiment."""
    parser = argument_parser(__doc__ or "", seeds="0-2")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES)[:4])
    parser.add_argument("--cached-only", action="store_true", help="compute nothing, write what earlier runs have left")
    options = parser.parse_args()
    overrides = REDUCED if options.reduced else {}
    seeds = options.seeds or ((0,) if options.reduced else (0, 1, 2))

    def settings(cell: Cell) -> dict[str, object]:
        return settings_of(cell, overrides)

    cells = list(grid(options.tasks, options.rules, seeds))
    if options.cached_only:
        folder = (options.cache or CACHE) / NAME
        cells = [cell for cell in cells if _path(folder, cell, settings(cell)).is_file()]
    outcome = run_cells(
        NAME,
        cells,
        run,
        settings,
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        quiet=options.quiet,
    )
    if not options.reduced:
        rows = [
            {"cell": [cell.variant, cell.rule, cell.seed], "settings": settings(cell), **result}
            for cell, result in outcome.results.items()
        ]
        write_json(RESULTS, {"record": outcome.record, "cells": rows})
        from experiments.smollm2.page import draw

        draw()
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
