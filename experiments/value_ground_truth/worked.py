"""Tasks with worked examples, as plain text: short chains of thought that a tiny model tries."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

Numbers = tuple[int, ...]
_NAMED = re.compile(r"answer is:?\s*(-?\d+)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Worked:
    """A question is some numbers, and a solution goes through them one by one.

    Attributes:
        draw: (count, seed) to as many questions, none twice and none of the examples.
        examples: The questions that a prompt begins with, solved.
        asked: The question in words.
        steps: The steps of its solution.
        gold: The right answer, as a number.
        stub: Asks for the answer.
    """

    draw: Callable[[int, int], list[Numbers]]
    examples: tuple[Numbers, ...]
    asked: Callable[[Numbers], str]
    steps: Callable[[Numbers], str]
    gold: Callable[[Numbers], int]
    stub: str = " The answer is "

    def solution(self, numbers: Numbers) -> str:
        """Return a worked solution, of the form of the examples."""
        return f"{self.steps(numbers)}{self.stub}{self.gold(numbers)}."

    def prompt(self, numbers: Numbers, kind: str, text: str) -> str:
        """Return the prompt; hints stand in the examples as well, so that the model sees what they are.

        Args:
            numbers: Of the question.
            kind: Of the hint, `"plain"`, or `"interrupted"`: as plain, but the examples are interrupted at several
                places and answered all the same.
            text: The hint.

        Returns:
            Worked examples and the question.
        """
        if kind == "interrupted":
            last = len(self.examples) - 1
            shown = "".join(
                f"{self._question(one, 'plain', '')}{self._interrupted(one, index / last)}\n\n"
                for index, one in enumerate(self.examples)
            )
            return shown + self._question(numbers, "plain", "")
        shown = "".join(
            self._question(one, kind, str(self.gold(one)) if kind == "answer" else self.solution(one))
            + f" {self.solution(one)}\n\n"
            for one in self.examples
        )
        return shown + self._question(numbers, kind, text)

    def _interrupted(self, numbers: Numbers, share: float) -> str:
        """The first words of the steps, and the answer."""
        words = self.steps(numbers).split(" ")
        return f"{''.join(f' {word}' for word in words[: round(share * len(words))])}{self.stub}{self.gold(numbers)}."

    def _question(self, numbers: Numbers, kind: str, text: str) -> str:
        asked = f"Q: {self.asked(numbers)}"
        if kind == "plain":
            return f"{asked}\nA:"
        if kind == "answer":
            return f"{asked} (the answer is {text})\nA:"
        return f"{asked}\nSolution: {text.strip()}\nA:"


def answer_in(text: str) -> str | None:
    """Return the number that follows "answer is", else the last number of the first line."""
    line = text.partition("\n")[0]
    found = _NAMED.findall(line) or _NUMBER.findall(line)
    return found[-1] if found else None


_SUMS: tuple[Numbers, ...] = ((3, 5, 4), (8, 6, 7), (2, 9, 9), (7, 4, 3))
_LARGEST: tuple[Numbers, ...] = ((59, 63, 15), (27, 84, 45), (95, 38, 72), (40, 21, 53))


def _draw_sums(count: int, seed: int) -> list[Numbers]:
    """Up to 508 sums of three numbers from 2 to 9."""
    every: list[Numbers] = [(a, b, c) for a in range(2, 10) for b in range(2, 10) for c in range(2, 10)]
    return random.Random(f"sums {seed}").sample([terms for terms in every if terms not in _SUMS], count)


def _add_up(numbers: Numbers) -> str:
    a, b, c = numbers
    return f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}."


def _draw_largest(count: int, seed: int) -> list[Numbers]:
    """Three different numbers from 10 to 99."""
    generator, found = random.Random(f"largest {seed}"), dict.fromkeys(_LARGEST)
    while len(found) < len(_LARGEST) + count:
        found[tuple(generator.sample(range(10, 100), 3))] = None
    return list(found)[len(_LARGEST) :]


def _compare(numbers: Numbers) -> str:
    """Keep the largest number while the others are read."""
    best = [max(numbers[: count + 1]) for count in range(len(numbers))]
    return " ".join(
        f"{one} is {'more' if one > before else 'less'} than {before}, so {after}."
        for one, (before, after) in zip(numbers[1:], pairwise(best), strict=True)
    )


WORKED: Mapping[str, Worked] = {
    "sums": Worked(_draw_sums, _SUMS, lambda numbers: " + ".join(map(str, numbers)), _add_up, sum),
    "largest": Worked(
        _draw_largest, _LARGEST, lambda numbers: f"largest of {', '.join(map(str, numbers))}", _compare, max
    ),
}
"""Sums of three one-digit numbers, and the largest of three numbers: comparisons without arithmetic."""
