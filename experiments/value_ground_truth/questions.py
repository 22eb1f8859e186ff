"""What a model is asked: how a question is put, with a hint and without, and how an answer is scored."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo.errors import ConfigError
from experiments.value_ground_truth.worked import WORKED, Numbers, Worked, answer_in

PLAIN = "plain"
"""How a question is put without a hint."""
ANSWER, SOLUTION, SIBLING = "answer", "solution", "sibling"
"""Hints: the gold answer, a worked solution, and a right completion of the same question."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        number: Of the question.
        gold: The right answer, as a text.
        solution: A worked solution; `""` where the task has none.
        prompt_ids: (kind of hint, its text) to what the model reads, as token ids.
        score: Text to 1 (right) or 0.
        interrupted_ids: A prompt whose examples are interrupted and answered all the same; None where there are none.
        hint_texts: The hints that there are, by kind.
    """

    number: int
    gold: str
    solution: str
    prompt_ids: Callable[[str, str], list[int]]
    score: Callable[[str], float]
    interrupted_ids: Sequence[int] | None = None

    @property
    def hint_texts(self) -> dict[str, str]:
        """The hints that the task itself gives."""
        return {ANSWER: self.gold} | ({SOLUTION: self.solution} if self.solution else {})


@dataclass(frozen=True)
class Questions:
    """The questions of a task.

    Attributes:
        name: Of the task.
        questions: Each of them.
        stub: What is written behind a prefix before the gold answer, to ask for its likelihood.
        stop: A completion ends where this stands; `""`: at the model's end token alone.
    """

    name: str
    questions: Sequence[Question]
    stub: str
    stop: str = ""


def load_questions(task: str, tokenizer: Any, *, count: int, seed: int = 0) -> Questions:
    """Return the questions of a task.

    Args:
        task: One of `worked.WORKED`, or whatever `dgpo train --task` takes: a reasoning-gym data set, a file, a data
            set of the hub.
        tokenizer: Of the model that is asked.
        count: How many.
        seed: Of the choice.

    Returns:
        The questions.

    Raises:
        ConfigError: If there is no such task, or it has fewer questions.
    """
    if task in WORKED:
        worked = WORKED[task]
        questions = [_of_worked(number, one, worked, tokenizer) for number, one in enumerate(worked.draw(count, seed))]
        return Questions(task, questions, stub=worked.stub, stop="\n")
    return Questions(task, _of_task(task, tokenizer, count, seed), stub="\n\nThe answer is ")


def _of_worked(number: int, numbers: Numbers, worked: Worked, tokenizer: Any) -> Question:
    def prompt_ids(kind: str, text: str) -> list[int]:
        return list(tokenizer(worked.prompt(numbers, kind, text), add_special_tokens=False)["input_ids"])

    gold, solution = str(worked.gold(numbers)), worked.solution(numbers)
    interrupted = prompt_ids("interrupted", "")
    return Question(number, gold, solution, prompt_ids, lambda text: float(answer_in(text) == gold), interrupted)


def _of_task(name: str, tokenizer: Any, count: int, seed: int) -> list[Question]:
    from dgpo.engines.hints import TEMPLATES, hinted_prompt
    from dgpo.lab.tasks import load_task

    task = load_task(name, seed=seed)
    rows = task.eval_dataset or task.train_dataset
    if len(rows) < count:
        raise ConfigError(f"{name} has {len(rows)} questions, and {count} are asked for. Ask for fewer (--questions).")
    if "answer" not in rows.column_names:
        raise ConfigError(f"{name} has no column 'answer', which the hint and the likelihood of the gold answer read.")
    chosen = random.Random(seed).sample(range(len(rows)), count)
    form = task.prompt_format()

    def question(number: int, row: dict[str, Any]) -> Question:
        columns = {key: [value] for key, value in row.items()}

        def prompt_ids(kind: str, text: str) -> list[int]:
            template = TEMPLATES["gold" if kind == ANSWER else "peer"]
            prompt = row["prompt"] if kind == PLAIN else hinted_prompt(row["prompt"], text, template)
            return form.ids(prompt, tokenizer)

        def score(text: str) -> float:
            completion = text if isinstance(row["prompt"], str) else [{"role": "assistant", "content": text}]
            value = task.reward_funcs[0](**columns | {"prompts": [row["prompt"]], "completions": [completion]})[0]
            return float(value is not None and value >= 1.0)

        return Question(number, str(row["answer"]), "", prompt_ids, score)

    return [question(number, rows[index]) for number, index in enumerate(chosen)]
