"""Runs the experiment: `python -m experiments.smollm2`; it needs the model of `make smollm2`."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.command import Experiment, main
from experiments.harness import Cell, Outcome
from experiments.smollm2.figures import draw
from experiments.smollm2.rules import AT_RATES, CHOSEN_ON, RATED, REDUCED, TASKS, arms_of
from experiments.smollm2.training import run, settings_of


def grid(seeds: Sequence[int], reduced: bool = False) -> Iterator[Cell]:
    """Yield the cells, seed by seed, so that a run that is cut short has compared all rules on some seeds."""
    for seed in seeds:
        for task in TASKS:
            for rule in arms_of(task):
                yield Cell(task, rule, seed)
    if len(seeds) == len(EXPERIMENT.seeds):  # a part decides nothing
        for seed in CHOSEN_ON:
            for rules in AT_RATES.values():
                yield from (Cell(RATED, rule, seed) for rule in rules)


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what is committed: the cells with their settings."""
    rows = [
        {
            "cell": [cell.variant, cell.rule, cell.seed],
            "settings": outcome.settings[cell],
            "made": outcome.made[cell],
            **result,
        }
        for cell, result in outcome.results.items()
    ]
    return {"record": outcome.record, "cells": rows}


EXPERIMENT = Experiment(
    name="smollm2",
    description="GRPO, DGPO, other weights, hindsight and TRL's SDPO on SmolLM2-135M-Instruct.",
    results=Path(__file__).parent / "results" / "results.json",
    seeds=range(10),
    reduced_seeds=1,
    plan=grid,
    run=run,
    settings=lambda cell, reduced: settings_of(cell, REDUCED if reduced else {}),
    summarize=summarize,
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
