"""Graders of mathematical answers on public answers: what is right and scores 0, what is wrong and scores 1.

    python benchmarks/math_graders.py
    python benchmarks/math_graders.py --output result.json --show 20

Two tables or three, all offline. *Spellings*: gold answers of MATH-500 and OCWCourses (`data/math_golds.jsonl`), each
written in other ways that change nothing (`\\dfrac`, a decimal, thousands, a unit, another order of a list). *Near
misses*: the same gold answers with a digit, a sign, a bracket or an order changed, or a part left out, and the other
gold answers of the sample. *Labelled*, with `--labelled FILE`: completions of a file of yours, JSON lines with `gold`,
`completion` and `correct`.
Graders: ours, math-verify, and those of verl (Minerva's, DAPO's, PRIME's) where verl is installed.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from _common import RESULTS, save

from dgpo.lab.rewards import extract_answer
from dgpo.lab.rewards.answers.check import check_answer

DATA = Path(__file__).parent / "data"
INTEGER = re.compile(r"-?[0-9]+")
Grader = Callable[[str, str], bool]


def graders() -> dict[str, Grader]:
    """The graders that are installed: gold answer and completion to whether it is right."""
    found: dict[str, Grader] = {"dgpo": _ours}
    with contextlib.suppress(ImportError):
        from math_verify import parse, verify

        found["math-verify"] = lambda gold, completion: bool(
            verify(
                parse(f"\\boxed{{{gold}}}", parsing_timeout=None),
                parse(completion, parsing_timeout=None),
                timeout_seconds=None,
            )
        )
    with contextlib.suppress(ImportError):
        from verl.utils.reward_score import math_dapo, math_reward

        found["verl math_reward"] = lambda gold, completion: math_reward.compute_score(completion, gold) > 0
        found["verl math_dapo"] = lambda gold, completion: bool(
            math_dapo.compute_score(f"Answer: {extract_answer(completion)}", gold)["acc"]
        )
    with contextlib.suppress(ImportError):
        from verl.utils.reward_score import prime_math

        found["verl prime_math"] = lambda gold, completion: bool(prime_math.compute_score(completion, gold)[0])
    return found


def _ours(gold: str, completion: str) -> bool:
    return check_answer(gold, extract_answer(completion), raw=False)[0] == "correct"


def spellings(gold: str) -> Iterator[str]:
    """The same answer in other words."""
    yield gold
    if "\\frac" in gold:
        yield gold.replace("\\frac", "\\dfrac")
    if "(" in gold and "\\left" not in gold:
        yield gold.replace("(", "\\left(").replace(")", "\\right)")
    if match := re.fullmatch(r"(-?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}", gold):
        value = Fraction(int(match[2]), int(match[3]))
        yield f"{match[1]}{value}"
        if not {2, 5} < {2, 5, *(p for p in (3, 7, 11, 13) if value.denominator % p == 0)}:
            yield f"{match[1]}{float(value)}"
    if INTEGER.fullmatch(gold):
        yield from (f"{gold}.0", f"{int(gold):,}", f"{gold}\\text{{ cm}}", f"x = {gold}", f"{gold} apples")
        yield from (f"{int(gold):,}".replace(",", "{,}"), f"{gold}^\\circ", f"\\text{{{gold}}}", f"{gold}.")
    if re.fullmatch(r"-?[0-9]+(?:, ?-?[0-9]+)+", gold):
        yield ", ".join(reversed(re.findall("-?[0-9]+", gold)))
        yield " \\text{ and } ".join(re.findall("-?[0-9]+", gold))
    if match := re.fullmatch(r"([0-9.]+)e(-?[0-9]+)", gold):
        yield from (f"{match[1]} \\times 10^{{{match[2]}}}", f"{match[1]}\\cdot10^{{{match[2]}}} \\text{{ m}}")


def near_misses(gold: str, rng: random.Random) -> Iterator[str]:
    """Answers that look like the gold answer and are not."""
    numbers = list(re.finditer("[0-9]+", gold))
    if numbers:
        match = rng.choice(numbers)
        yield f"{gold[: match.start()]}{int(match[0]) + 1}{gold[match.end() :]}"
        if not gold[match.end() :].startswith("^\\circ") and match[0] != gold.strip("+-$ "):
            yield match[0]
    yield gold[1:] if gold.startswith("-") else f"-{gold}" if gold not in ("0",) and gold[0].isdigit() else f"{gold}+1"
    if match := re.fullmatch(r"\\left\((.+),([^,]+)\\right\)|\((.+),([^,]+)\)", gold):
        first, second = (match[1], match[2]) if match[1] else (match[3], match[4])
        if first.strip() != second.strip():
            yield f"({second.strip()}, {first.strip()})"
        yield f"\\{{{first},{second}\\}}"
        yield first
    if re.fullmatch(r"-?[0-9]+(?:, ?-?[0-9]+)+", gold):
        yield gold.rpartition(",")[0]
        yield f"{gold}, 1000003"


def asked(grader: Grader, gold: str, completion: str) -> bool | None:
    """The grader's word; `None` if it raises or takes more than five seconds."""

    def give_up(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        return grader(gold, completion)
    except Exception:
        return None
    finally:
        signal.alarm(0)


def table(rows: list[tuple[str, str, bool]]) -> dict[str, Any]:
    """What each grader makes of (gold answer, completion, whether it is right)."""
    result = {}
    for name, grader in graders().items():
        started = time.process_time()
        words = [asked(grader, gold, completion) for gold, completion, _ in rows]
        seconds = time.process_time() - started
        wrong = [(g, c, right) for (g, c, right), word in zip(rows, words, strict=True) if bool(word) != right]
        result[name] = {
            "answers": len(rows),
            "false_negatives": sum(right for *_, right in wrong),
            "false_positives": sum(not right for *_, right in wrong),
            "raised_or_timed_out": words.count(None),
            "processor_ms": 1000 * seconds / len(rows),
            "wrong": [[gold, completion] for gold, completion, _ in wrong],
        }
    return result


def main() -> None:
    """Print the tables and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=0, help="print so many wrong verdicts of each grader")
    parser.add_argument("--limit", type=int, help="use so many gold answers")
    parser.add_argument("--labelled", type=Path, help="completions with labels, as JSON lines")
    parser.add_argument("--output", type=Path, default=RESULTS / "math_graders.json")
    options = parser.parse_args()
    rng = random.Random(0)
    golds = [json.loads(line)["gold"] for line in (DATA / "math_golds.jsonl").read_text().splitlines()][: options.limit]
    box = "So the answer is $\\boxed{{{}}}$.".format
    misses = [(gold, box(text), False) for gold in golds for text in near_misses(gold, rng)]
    misses += [(gold, box(rng.choice(golds)), False) for gold in golds for _ in range(3)]
    tables = {
        "spellings": table([(gold, box(text), True) for gold in golds for text in dict.fromkeys(spellings(gold))]),
        "near_misses": table([row for row in misses if row[1] != box(row[0])]),
    }
    if options.labelled is not None:
        labelled = [json.loads(line) for line in options.labelled.read_text().splitlines()]
        tables["labelled"] = table([(row["gold"], row["completion"], row["correct"]) for row in labelled])
    for name, graded in tables.items():
        for grader, figures in graded.items():
            shown = figures.pop("wrong")
            print(name, grader, json.dumps(figures))
            for gold, completion in shown[: options.show]:
                print(f"    {gold!r} {completion[-90:]!r}")
    save(options.output, tables, "math-verify", "sympy", "verl")


if __name__ == "__main__":
    main()
