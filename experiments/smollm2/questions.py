"""The questions of the tasks: prompts without a hint, with the answer and with a wrong one; and their reward."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.value_ground_truth.worked import WORKED, Numbers, answer_in

HINTED = "privileged_context"
"""The column of prompts with a hint, as TRL's SDPO calls it."""
MISLED = "misled"
"""The column of the same prompts with a wrong answer."""
SOLVED, MISSOLVED = "solved", "missolved"
"""The columns of prompts with a worked solution, and with one that takes a wrong first step; of sums alone."""

Rows = list[dict[str, str]]


def draw(dataset: str, options: Mapping[str, Any], *, seed: int, eval_size: int) -> tuple[Rows, Rows]:
    """Return questions to train on, and others that are held out.

    Args:
        dataset: Of `Questions`, or another one of `worked.WORKED`.
        options: Likewise.
        seed: Of the choice.
        eval_size: How many are held out.

    Returns:
        Rows of `prompt`, `HINTED` (the same prompt with the answer), `MISLED` (with another one), `answer`, and of sums
        `SOLVED` and `MISSOLVED`.
    """
    rows = _worked(dataset, seed) if dataset in WORKED else _reasoning_gym(dataset, options, seed, eval_size)
    return rows[eval_size:], rows[:eval_size]


def right(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """Return 1 where the number after "answer is", else the last one of the first line, is the answer."""
    return [float(answer_in(text) == gold) for text, gold in zip(completions, answer, strict=True)]


def _worked(dataset: str, seed: int) -> Rows:
    task = WORKED[dataset]
    drawn = task.draw(480, seed)
    answers = [str(task.gold(numbers)) for numbers in drawn]

    def row(numbers: Numbers, answer: str) -> dict[str, str]:
        given = {
            "prompt": task.prompt(numbers, "plain", ""),
            HINTED: task.prompt(numbers, "answer", answer),
            MISLED: task.prompt(numbers, "answer", _another(answer, answers, numbers)),
            "answer": answer,
        }
        if dataset != "sums":
            return given
        return given | {
            SOLVED: task.prompt(numbers, "solution", task.solution(numbers)),
            MISSOLVED: task.prompt(numbers, "solution", _with_a_slip(numbers, task.stub)),
        }

    return [row(numbers, answer) for numbers, answer in zip(drawn, answers, strict=True)]


def _with_a_slip(terms: Numbers, stub: str) -> str:
    """A worked solution whose first sum is off by 1 to 3, and the rest with it."""
    a, b, c = terms
    first = a + b + random.Random(f"slip {terms}").choice([-3, -2, -1, 1, 2, 3])
    return f"{a} + {b} = {first}. {first} + {c} = {first + c}.{stub}{first + c}."


def _another(answer: str, answers: Sequence[str], of: object) -> str:
    """Return another question's answer, drawn once for each question."""
    return random.Random(str(of)).choice([one for one in answers if one != answer])


def _reasoning_gym(dataset: str, options: Mapping[str, Any], seed: int, eval_size: int) -> Rows:
    from dgpo.lab.tasks import load_task

    task = load_task(f"reasoning_gym:{dataset}", seed=seed, eval_size=eval_size, system_prompt=None, **options)
    assert task.eval_dataset is not None

    answers = list(task.train_dataset["answer"])  # a column of a data set is read anew at each look

    def row(given: Mapping[str, Any]) -> dict[str, str]:
        question, answer = given["prompt"][0]["content"], given["answer"]
        return {
            "prompt": f"{question}\nAnswer:",
            HINTED: f"{question} (The answer is {answer}.)\nAnswer:",
            MISLED: f"{question} (The answer is {_another(answer, answers, question)}.)\nAnswer:",
            "answer": answer,
        }

    return [row(given) for part in (task.eval_dataset, task.train_dataset) for given in part]
