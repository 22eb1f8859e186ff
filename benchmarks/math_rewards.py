"""Throughput of the math reward: 10,000 mixed answers of which 1 % hang, in the pool and in one process per answer.

    python benchmarks/math_rewards.py
    python benchmarks/math_rewards.py --answers 1000 --alone 100 --output result.json

Both check the same kinds of answers with the same limit on time. One process per answer is what a user would write
without a pool: it starts Python, imports math-verify, checks one answer, and is killed at the limit. It is measured on
the first `--alone` answers, of which 1 % hang as well, as all 10,000 would take hours. Every score of the pool is
compared with the one expected; a single one out of place ends the benchmark.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _common import RESULTS, save

from dgpo.lab.rewards.math import MathReward
from dgpo.lab.rewards.pool import VerifierPool

HANGING = "9^{9^{9^{9}}}"
ALONE = """
import sys
from math_verify import parse, verify
gold, text = parse("\\\\boxed{" + sys.argv[1] + "}", parsing_timeout=None), parse(sys.argv[2], parsing_timeout=None)
sys.exit(0 if verify(gold, text, timeout_seconds=None) else 10)
"""


def mixed_answers(count: int, hanging_every: int) -> list[tuple[str, str, str]]:
    """Completions, gold answers and the outcomes expected; one in `hanging_every` hangs."""
    rng = random.Random(0)
    rows = []
    for index in range(count):
        number = rng.randrange(1, 1000)
        half = f"\\frac{{{number}}}{{2}}"
        kinds = [
            (f"so $\\boxed{{{number}}}$.", str(number), "correct"),
            (f"so $\\boxed{{{number}}}$.", str(number + 1), "wrong"),
            (f"so $\\boxed{{{half}}}$.", f"{number / 2}", "correct"),
            (f"so $\\boxed{{{number}\\sqrt{{8}}}}$.", f"{2 * number}\\sqrt{{2}}", "correct"),
            (f"so $\\boxed{{(x+{number})^2}}$.", f"x^2+{2 * number}x+{number**2}", "correct"),
            (f"so $\\boxed{{[0,{number})}}$.", f"[0,{number}]", "wrong"),
            ("I do not know.", str(number), "unparseable"),
        ]
        hangs = (f"\\boxed{{{HANGING}}}", str(number), "timeout")
        rows.append(hangs if index % hanging_every == hanging_every // 2 else rng.choice(kinds))
    return rows


def measure_pool(rows: list[tuple[str, str, str]], seconds: float, workers: int) -> dict[str, float]:
    with VerifierPool(seconds=seconds, num_workers=workers) as pool:
        started = time.perf_counter()  # the start of the processes counts
        reward = MathReward("boxed", pool=pool)
        verdicts = reward.verdicts([text for text, _, _ in rows], [gold for _, gold, _ in rows])
        elapsed = time.perf_counter() - started
    misplaced = sum(verdict.outcome != expected for verdict, (_, _, expected) in zip(verdicts, rows, strict=True))
    if misplaced:
        sys.exit(f"{misplaced} of {len(rows)} outcomes are not the expected ones")
    processor = sum(verdict.seconds for verdict in verdicts if verdict.outcome != "timeout")
    return figures(len(rows), elapsed, misplaced) | {"processor_ms_per_answer": 1000 * processor / len(rows)}


def measure_alone(rows: list[tuple[str, str, str]], seconds: float, workers: int) -> dict[str, float]:
    def check(row: tuple[str, str, str]) -> str:
        try:
            done = subprocess.run(
                [sys.executable, "-c", ALONE, row[1], row[0]], timeout=seconds + 2, capture_output=True, check=False
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        return "correct" if done.returncode == 0 else "wrong"

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        found = list(threads.map(check, rows))
    elapsed = time.perf_counter() - started
    agree = sum((outcome == "correct") == (row[2] == "correct") for outcome, row in zip(found, rows, strict=True))
    return figures(len(rows), elapsed, len(rows) - agree)


def figures(answers: int, seconds: float, out_of_place: int) -> dict[str, float]:
    return {
        "answers": answers,
        "seconds": seconds,
        "answers_per_second": answers / seconds,
        "out_of_place": out_of_place,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--alone", type=int, default=200)
    parser.add_argument("--hanging-every", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0, help="limit on an answer's processor time")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, default=RESULTS / "math_rewards.json")
    options = parser.parse_args()
    rows = mixed_answers(options.answers, options.hanging_every)
    alone = measure_alone(rows[: options.alone], options.seconds, options.workers)
    print(f"one process per answer: {alone['answers_per_second']:.2f} answers/s", flush=True)
    pool = measure_pool(rows, options.seconds, options.workers)
    calm = measure_pool([row for row in rows if row[2] != "timeout"], options.seconds, options.workers)
    result = {
        "workers": options.workers,
        "limit_seconds": options.seconds,
        "hanging_share": 1 / options.hanging_every,
        "pool": pool,
        "pool_without_hanging_answers": calm,
        "one_process_per_answer": alone,
        "speedup": pool["answers_per_second"] / alone["answers_per_second"],
    }
    save(options.output, result, "math-verify", "sympy")
    print(f"pool: {pool['answers_per_second']:.1f} answers/s, {result['speedup']:.1f} times as many")
    print(
        f"without hanging answers: {calm['answers_per_second']:.0f} answers/s, "
        f"{calm['processor_ms_per_answer']:.2f} ms of processor time each"
    )


if __name__ == "__main__":
    main()
