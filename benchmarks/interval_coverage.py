"""How often the 95 % intervals of `dgpo eval` and `dgpo compare` hold the truth, on simulated exams of 30 problems.

    python benchmarks/interval_coverage.py

A model is simulated by the chance p of solving a problem, drawn from a Beta distribution with much weight near 0 and 1,
as on AIME. Each exam draws 30 problems and 32 completions of each; the truth is the mean over all problems there could
be.
For comparison the interval of someone who takes the 960 completions for independent, and the plain normal interval over
problems.

The second model, which all columns but `difference` are about, is as good as the first in the rows that are named after
a spread alone. In the others it is better in few problems: an exam may well have none of those, and the interval of the
difference must still hold the truth. Two rows are of models that always say the same, so that a problem is won, lost or
neither, as with a single greedy completion.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _common import RESULTS, save

from dgpo.lab.evaluation import intervals
from dgpo.lab.evaluation.intervals import bootstrap
from dgpo.lab.evaluation.metrics import pass_at_k

SPREADS = {
    "very weak, mean 0.07": (0.15, 1.85),
    "weak, mean 0.17": (0.25, 1.25),
    "middle, mean 0.4": (0.4, 0.6),
    "strong, mean 0.6": (0.6, 0.4),
    "very strong, mean 0.8": (1.2, 0.3),
}
PROBLEMS, SAMPLES, KS = 30, 32, (8, 32)
# In a problem that became much easier, this share of the failures is left.
LEFT = 0.3

Chances = tuple[np.ndarray, np.ndarray]


class Case(NamedTuple):
    """A pair of models.

    `draw` gives the chances of both on the problems of an exam, `passing` the second one's true pass@k, and
    `difference` the true difference of their means.
    """

    facts: dict[str, object]
    draw: Callable[[np.random.Generator], Chances]
    passing: Callable[[int], float]
    difference: float


def spread(a: float, b: float, easier: float = 0.0) -> Case:
    """A model with a spread of difficulties, and one to which a share of the problems is much easier."""

    def draw(rng: np.random.Generator) -> Chances:
        chances = rng.beta(a, b, size=PROBLEMS)
        if not easier:
            return chances, chances
        return chances, np.where(rng.random(PROBLEMS) < easier, 1 - LEFT * (1 - chances), chances)

    def passing(k: int) -> float:
        missed = math.prod((b + i) / (a + b + i) for i in range(k))
        return 1 - (1 - easier + easier * LEFT**k) * missed

    return Case(
        {"beta": [a, b], "easier": easier} if easier else {"beta": [a, b]},
        draw,
        passing,
        easier * (1 - LEFT) * b / (a + b),
    )


def certain(solved: float, gained: float, lost: float) -> Case:
    """Two models that always say the same: the second solves some problems more, and some less."""

    def draw(rng: np.random.Generator) -> Chances:
        place = rng.random(PROBLEMS)
        first = place < solved
        second = np.where(first, place >= lost, place < solved + gained)
        return first.astype(float), second.astype(float)

    return Case({"beta": None, "gained": gained, "lost": lost}, draw, lambda k: solved + gained - lost, gained - lost)


CASES = {name: spread(*ab) for name, ab in SPREADS.items()} | {
    "very weak; 5 % of problems much easier": spread(*SPREADS["very weak, mean 0.07"], easier=0.05),
    "weak; 5 % of problems much easier": spread(*SPREADS["weak, mean 0.17"], easier=0.05),
    "middle; 10 % of problems much easier": spread(*SPREADS["middle, mean 0.4"], easier=0.1),
    "always the same answer; 4 % won, 1 % lost": certain(0.4, 0.04, 0.01),
    "always the same answer; 10 % won, 2 % lost": certain(0.4, 0.1, 0.02),
}


def coverage(case: Case, exams: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    tables = [np.array([pass_at_k(SAMPLES, c, k) for c in range(SAMPLES + 1)]) for k in KS]
    mean = case.passing(1)
    truths = (mean, *(case.passing(k) for k in KS), case.difference)
    hits = dict.fromkeys(
        ("avg", *(f"pass@{k}" for k in KS), "difference", "normal, by problem", "normal, by completion"), 0
    )
    for exam in range(exams):
        first, right = (rng.binomial(SAMPLES, chances) / SAMPLES for chances in case.draw(rng))
        columns = np.stack([right, *(table[np.round(right * SAMPLES).astype(int)] for table in tables)], axis=1)
        estimates = bootstrap(columns.tolist(), kind="share", seed=exam)
        estimates += bootstrap((right - first)[:, None].tolist(), kind="difference", seed=exam)
        for name, truth, estimate in zip(hits, truths, estimates, strict=False):
            hits[name] += estimate.low <= truth <= estimate.high
        by_problem = 1.96 * right.std(ddof=1) / math.sqrt(PROBLEMS)
        by_completion = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / (PROBLEMS * SAMPLES))
        hits["normal, by problem"] += abs(right.mean() - mean) <= by_problem
        hits["normal, by completion"] += abs(right.mean() - mean) <= by_completion
    return {name: count / exams for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "interval_coverage.json")
    options = parser.parse_args()
    intervals.RESAMPLES = 2000  # of 10,000; more exams are worth more here
    coverages = {}
    for name, case in CASES.items():
        beta = case.facts.pop("beta")
        coverages[name] = {"beta": beta, **coverage(case, options.exams, seed=101), **case.facts}
        print(name, coverages[name], flush=True)
    result = {
        "exams": options.exams,
        "problems": PROBLEMS,
        "samples_per_problem": SAMPLES,
        "resamples": intervals.RESAMPLES,
        "standard_error": math.sqrt(0.95 * 0.05 / options.exams),
        "coverage": coverages,
    }
    save(options.output, result, "numpy")


if __name__ == "__main__":
    main()
