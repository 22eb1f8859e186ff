"""Sums of three one-digit numbers with worked examples: short chains of thought that a tiny model tries."""

import random
import re
from dataclasses import dataclass

Terms = tuple[int, int, int]
_EXAMPLES: tuple[Terms, ...] = ((3, 5, 4), (8, 6, 7), (2, 9, 9), (7, 4, 3))
_NAMED = re.compile(r"answer is:?\s*(-?\d+)")
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Sums:
    """The task.

    Attributes:
        stub: Asks for the answer.
    """

    stub: str = " The answer is "

    def draw(self, count: int, seed: int) -> list[Terms]:
        """Return the terms of some sums, none twice and none of the examples.

        Args:
            count: How many, up to 500.
            seed: Of the choice.

        Returns:
            Terms from 2 to 9.
        """
        every = [(a, b, c) for a in range(2, 10) for b in range(2, 10) for c in range(2, 10)]
        left = [terms for terms in every if terms not in _EXAMPLES]
        return random.Random(f"sums {seed}").sample(left, count)

    def solution(self, terms: Terms) -> str:
        """Return a worked solution, of the form of the examples."""
        a, b, c = terms
        return f"{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}.{self.stub}{a + b + c}."

    def prompt(self, terms: Terms, kind: str, text: str) -> str:
        """Return the prompt; hints stand in the examples as well, so that the model sees what they are.

        Args:
            terms: Of the sum.
            kind: Of the hint, or `"plain"`.
            text: The hint.

        Returns:
            Worked examples and the question.
        """
        shown = "".join(
            self._question(one, kind, str(sum(one)) if kind == "answer" else self.solution(one))
            + f" {self.solution(one)}\n\n"
            for one in _EXAMPLES
        )
        return shown + self._question(terms, kind, text)

    @staticmethod
    def _question(terms: Terms, kind: str, text: str) -> str:
        asked = "Q: " + " + ".join(map(str, terms))
        if kind == "plain":
            return f"{asked}\nA:"
        if kind == "answer":
            return f"{asked} (the answer is {text})\nA:"
        return f"{asked}\nSolution: {text.strip()}\nA:"

    @staticmethod
    def answer(text: str) -> str | None:
        """Return the number that follows "answer is", else the last number of the first line."""
        line = text.partition("\n")[0]
        found = _NAMED.findall(line) or _NUMBER.findall(line)
        return found[-1] if found else None
