"""How often the 95 % intervals of `dgpo eval` and `dgpo compare` hold the truth, on simulated exams of 30 problems.

    python benchmarks/interval_coverage.py

A model is simulated by the chance p of solving a problem, drawn from a Beta distribution with much weight near 0 and 1,
as on AIME. Each exam draws 30 problems and 32 completions of each; the truth is the mean over all problems there could
be.
For comparison the interval of someone who takes the 960 completions for independent, and the plain normal interval over
problems.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from _common import RESULTS, save

from dgpo.evaluation import intervals
from dgpo.evaluation.intervals import bootstrap
from dgpo.evaluation.metrics import pass_at_k

SPREADS = {
    "very weak, mean 0.07": (0.15, 1.85),
    "weak, mean 0.17": (0.25, 1.25),
    "middle, mean 0.4": (0.4, 0.6),
    "strong, mean 0.6": (0.6, 0.4),
    "very strong, mean 0.8": (1.2, 0.3),
}
PROBLEMS, SAMPLES, KS = 30, 32, (8, 32)


def coverage(a: float, b: float, exams: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    tables = [np.array([pass_at_k(SAMPLES, c, k) for c in range(SAMPLES + 1)]) for k in KS]
    mean = a / (a + b)
    passing = [1 - math.prod((b + i) / (a + b + i) for i in range(k)) for k in KS]
    hits = dict.fromkeys(
        ("avg", *(f"pass@{k}" for k in KS), "difference", "normal, by problem", "normal, by completion"), 0
    )
    for exam in range(exams):
        chances = rng.beta(a, b, size=PROBLEMS)
        right, other = rng.binomial(SAMPLES, chances) / SAMPLES, rng.binomial(SAMPLES, chances) / SAMPLES
        columns = np.stack([right, *(table[np.round(right * SAMPLES).astype(int)] for table in tables)], axis=1)
        estimates = bootstrap(columns.tolist(), kind="share", seed=exam)
        estimates += bootstrap((other - right)[:, None].tolist(), kind="difference", seed=exam)
        for name, truth, found in zip(hits, (mean, *passing, 0.0), estimates, strict=False):
            hits[name] += found.low <= truth <= found.high
        by_problem = 1.96 * right.std(ddof=1) / math.sqrt(PROBLEMS)
        by_completion = 1.96 * math.sqrt(right.mean() * (1 - right.mean()) / (PROBLEMS * SAMPLES))
        hits["normal, by problem"] += abs(right.mean() - mean) <= by_problem
        hits["normal, by completion"] += abs(right.mean() - mean) <= by_completion
    return {name: count / exams for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=RESULTS / "interval_coverage.json")
    options = parser.parse_args()
    intervals.RESAMPLES = 2000  # of 10,000; more exams are worth more here
    found = {}
    for name, (a, b) in SPREADS.items():
        found[name] = {"beta": [a, b], **coverage(a, b, options.exams, seed=101)}
        print(name, found[name], flush=True)
    result = {
        "exams": options.exams,
        "problems": PROBLEMS,
        "samples_per_problem": SAMPLES,
        "resamples": intervals.RESAMPLES,
        "standard_error": math.sqrt(0.95 * 0.05 / options.exams),
        "coverage": found,
    }
    save(options.output, result, "numpy")


if __name__ == "__main__":
    main()
