"""Runs the experiment: `python -m experiments.credit`."""

import sys
from pathlib import Path

from experiments.command import Experiment, main
from experiments.credit import cells
from experiments.credit.figures import draw
from experiments.credit.stacks import stack_of
from experiments.credit.summary import summarize

EXPERIMENT = Experiment(
    name="credit",
    description="Which redistribution of the advantage learns best, and where the credit lands.",
    results=Path(__file__).parent / "results" / "credit.json",
    seeds=range(10),
    reduced_seeds=2,
    plan=cells.planned,
    run=cells.run,
    settings=lambda cell, reduced: cells.settings(cell),
    summarize=summarize,
    draw=draw,
    batch=stack_of,
    makes_models=True,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
