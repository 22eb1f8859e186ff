"""Runs the experiment: `python -m experiments.credit`."""

import sys
from pathlib import Path

from experiments._harness import CACHE, argument_parser, run_cells, write_json
from experiments.credit import cells
from experiments.credit.comparison import load
from experiments.credit.figures import draw
from experiments.credit.summary import summarize

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Compute what is missing, then write results and figures; a part chosen by hand only fills the cache.

    Returns:
        0, or 1 if a cell failed.
    """
    parser = argument_parser(
        "Which redistribution of the advantage learns best, and where the credit lands.", seeds="0-9"
    )
    parser.add_argument("--variants", default="", help="only these, by commas")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder of results and figures; the committed ones by default"
    )
    parser.add_argument("--rules", default="", help="only these, by commas")
    options = parser.parse_args()
    seeds = options.seeds or (tuple(range(2)) if options.reduced else tuple(range(10)))
    chosen = [
        cell
        for cell in cells.planned(seeds, reduced=options.reduced)
        if (not options.variants or cell.variant in options.variants.split(","))
        and (not options.rules or cell.rule in options.rules.split(","))
    ]
    outcome = run_cells(
        "credit",
        chosen,
        cells.run,
        cells.settings,
        batch=cells.stack_of,
        workers=options.workers,
        cache=options.cache,
        fresh=options.fresh,
        compute=not options.no_compute,
        quiet=options.quiet,
    )
    if not outcome.results or options.variants or options.rules:
        return int(bool(outcome.failures))
    out = options.out or (CACHE / "credit" / "reduced-results" if options.reduced else None)
    write_json((out or RESULTS) / "credit.json", summarize(outcome))
    # As read again: figures and page are made of what is committed, rounded floats included.
    draw(load((out or RESULTS) / "credit.json"), out)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    sys.exit(main())
