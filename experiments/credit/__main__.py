"""Runs the experiment: `python -m experiments.credit`."""

import functools
import shutil
import sys
from pathlib import Path

from experiments._harness import CACHE, run_cells, write_json
from experiments._options import argument_parser, folder_of_results
from experiments.credit import cells
from experiments.credit.comparison import load
from experiments.credit.figures import draw
from experiments.credit.summary import summarize

NAME = "credit"
RESULTS = Path(__file__).parent / "results"
SEEDS = tuple(range(10))


def main() -> int:
    """Compute what is missing, then write results and figures; a part chosen by hand only fills the cache.

    Returns:
        0, or 1 if a cell failed.
    """
    parser = argument_parser(
        "Which redistribution of the advantage learns best, and where the credit lands.", seeds="0-9"
    )
    parser.add_argument("--variants", default="", help="only these, by commas")
    parser.add_argument("--rules", default="", help="only these, by commas")
    options = parser.parse_args()
    seeds = options.seeds or (SEEDS[:2] if options.reduced else SEEDS)
    chosen = [
        cell
        for cell in cells.planned(seeds, reduced=options.reduced)
        if (not options.variants or cell.variant in options.variants.split(","))
        and (not options.rules or cell.rule in options.rules.split(","))
    ]
    models = (options.cache or CACHE) / NAME / "models"
    if options.fresh and not options.no_compute:
        shutil.rmtree(models, ignore_errors=True)
    outcome = run_cells(
        NAME,
        chosen,
        functools.partial(cells.run, models=models),
        cells.settings,
        batch=cells.stack_of,
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        compute=not options.no_compute,
        quiet=options.quiet,
    )
    out = folder_of_results(options, cells.planned(SEEDS, reduced=False), outcome, RESULTS)
    if out is not None and outcome.results:
        write_json(out / "credit.json", summarize(outcome))
        # As read again: figures and page are made of what is committed, rounded floats included.
        draw(load(out / "credit.json"), None if out == RESULTS else out)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
