"""Runs the experiment: `python -m experiments.surface`."""

import sys
from pathlib import Path

from experiments.command import Experiment, main
from experiments.credit.stacks import stack_of
from experiments.surface import cells
from experiments.surface.figures import draw
from experiments.surface.summary import summarize

EXPERIMENT = Experiment(
    name="surface",
    description="DGPO less GRPO by learning rate, group size, updates, length, vocabulary and age of the reference.",
    results=Path(__file__).parent / "results" / "surface.json",
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
