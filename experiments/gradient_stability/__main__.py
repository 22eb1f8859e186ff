"""Runs the experiment: `python -m experiments.gradient_stability`, the formulas and the short trainings."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.command import Experiment, main
from experiments.gradient_stability.figures import draw
from experiments.gradient_stability.summary import UNSWEPT
from experiments.gradient_stability.theory import sweeps
from experiments.gradient_stability.training import RULES, run, settings_of
from experiments.harness import Cell, Outcome

SWEEPS = {
    "reference": (("1e-2", "1e-4", "1e-8", "1e-12"), tuple(rule for rule in RULES if rule != "grpo")),
    "policy": (("1e-2", "1e-3", "1e-4"), ("grpo", "dgpo", "dgpo-sharp", "k3", "reverse-kl")),
    "stale": (("1e-2", "1e-3", "1e-4", "1e-6"), ("grpo", "dgpo", "dgpo-sharp", "k3", "reverse-kl")),
}
"""Probabilities and rules of each; GRPO does not look at the reference."""
REDUCED = {"steps": 2, "prompts": 2, "num_generations": 4, "warm_up_steps": 40, "num_forks": 2}


def grid(seeds: Sequence[int], reduced: bool) -> Iterator[Cell]:
    """Yield the cells, seed by seed."""
    for seed in seeds:
        for rule in RULES:
            yield Cell(UNSWEPT, rule, seed)
        for side, (probabilities, rules) in SWEEPS.items():
            for probability in probabilities[-1:] if reduced else probabilities:
                for rule in rules:
                    yield Cell(f"{side}={probability}", rule, seed)


def summarize(outcome: Outcome) -> dict[str, Any]:
    """Return what is committed: the norms by the formulas, and what each cell recorded."""
    rows = [
        {"variant": cell.variant, "rule": cell.rule, "seed": cell.seed, **result}
        for cell, result in outcome.results.items()
    ]
    return {"record": outcome.record, "theory": sweeps(), "cells": rows}


EXPERIMENT = Experiment(
    name="gradient_stability",
    description="Gradients of KL penalties and of DGPO where policy and reference disagree without bound.",
    results=Path(__file__).parent / "results" / "results.json",
    seeds=range(10),
    reduced_seeds=1,
    plan=grid,
    run=run,
    settings=lambda cell, reduced: settings_of(cell, REDUCED if reduced else {}),
    summarize=summarize,
    draw=draw,
    # Models are loaded once per process either way; a batch of one seed keeps the bar moving.
    batch=lambda cell: (cell.variant, cell.seed),
    makes_models=True,
)

if __name__ == "__main__":
    sys.exit(main(EXPERIMENT))
