"""Runs the experiment: `python -m experiments.hindsight`."""

import sys
from pathlib import Path

from experiments.command import Experiment, main
from experiments.credit.stacks import stack_of
from experiments.hindsight import cells
from experiments.hindsight.figures import draw
from experiments.hindsight.summary import summarize

EXPERIMENT = Experiment(
    name="hindsight",
    description="What a credit rule would have to know, and what a frozen reference knows by hindsight.",
    results=Path(__file__).parent / "results" / "hindsight.json",
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
