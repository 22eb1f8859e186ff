"""The problems of an evaluation: exams on the hub by short names, local files, and the tasks that bring a scorer."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.lab.rewards.math import CORRECT, CRASH, UNPARSEABLE, WRONG, MathReward, score
from dgpo.lab.tasks.base import RewardFn
from dgpo.lab.tasks.layouts import Prompt, as_gold, as_prompt, cell, fill_template, find_columns
from dgpo.lab.tasks.readers import FORMATS, Table, read_file, read_hub
from dgpo.lab.tasks.registry import load_task
from dgpo.names import did_you_mean

_ID_COLUMNS = ("id", "unique_id", "problem_id", "ID")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubTask(NamedTuple):
    """Where an exam lies.

    Attributes:
        hub_id: The data set.
        config: Its configuration.
        split: The split.
    """

    hub_id: str
    config: str | None
    split: str


HUB_TASKS = {
    "aime24": HubTask("HuggingFaceH4/aime_2024", None, "train"),
    "aime25": HubTask("math-ai/aime25", None, "test"),
    "math500": HubTask("HuggingFaceH4/MATH-500", None, "test"),
    "gsm8k": HubTask("openai/gsm8k", "main", "test"),
    "amc23": HubTask("math-ai/amc23", None, "test"),
}
"""Exams by their short names."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        name: Unique among the problems of a set.
        prompt: Text, or chat messages.
        gold: The right answer, `""` where the scorer needs none.
        columns: The columns that the task's scorer reads.
        digest: Hash of the prompt, before any template and without a system prompt, and of the gold answer: whether two
            evaluations have the same problem.
    """

    name: str
    prompt: Prompt
    gold: str
    columns: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        if not self.digest:
            messages = (
                self.prompt if isinstance(self.prompt, str) else [m for m in self.prompt if m["role"] != "system"]
            )
            digest = hashlib.sha256(json.dumps([messages, self.gold], sort_keys=True).encode()).hexdigest()[:12]
            object.__setattr__(self, "digest", digest)


class Scored(NamedTuple):
    """What came of one completion.

    Attributes:
        score: From 0 to 1, or `None` if the gold answer cannot be read.
        answer: What it answered.
        outcome: `correct`, `wrong`, `unparseable`, `timeout`, `crash` or `unparseable_gold`.
        value: The value of a mathematical answer, for the majority vote; `None` where the answer stands for itself.
    """

    score: float | None
    answer: str | None
    outcome: str
    value: str | None = None


Scorer = Callable[[Sequence[Problem], Sequence[str]], list[Scored]]


@dataclass(frozen=True)
class ProblemSet:
    """The problems of an evaluation and the way to score them.

    Attributes:
        name: The task.
        problems: The problems, in order.
        reward: The task's own scorer; `None` for mathematical answers, which the protocol's format reads.
    """

    name: str
    problems: tuple[Problem, ...]
    reward: RewardFn | None = None

    def fingerprint(self) -> str:
        """Return a hash of the problems, their prompts and gold answers.

        Returns:
            16 hexadecimal digits.
        """
        rows = [(problem.name, problem.prompt, problem.gold) for problem in self.problems]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]

    def with_template(self, template: str | None) -> "ProblemSet":
        """Return the same problems in the prompt template of a protocol.

        Args:
            template: A text around `{prompt}`; `None` changes nothing.

        Returns:
            Problems; those of a task with a scorer of its own keep its prompts, which the scorer needs.
        """
        if template is None or self.reward is not None:
            return self
        problems = tuple(replace(problem, prompt=fill_template(template, problem.prompt)) for problem in self.problems)
        return ProblemSet(self.name, problems)

    def scorer(self, answer_format: AnswerFormat) -> Scorer:
        """Return what scores completions.

        Args:
            answer_format: Where a mathematical answer is looked for.

        Returns:
            A function of problems and texts.
        """
        return _math_scorer(MathReward(answer_format)) if self.reward is None else _reward_scorer(self.reward)


def load_problems(
    task: str, *, limit: int | None = None, seed: int = 0, task_args: dict[str, Any] | None = None
) -> ProblemSet:
    """Return the problems of a task.

    Args:
        task: `aime24`, `aime25`, `math500`, `gsm8k`, `amc23`; a file; `owner/name[:configuration[:split]]` of the hub;
            `forks` or `reasoning_gym:<name>`, of which the held-out prompts are taken.
        limit: Only the first so many problems.
        seed: Of the held-out prompts of forks and reasoning-gym.
        task_args: Options of `forks` and reasoning-gym, or `prompt_column` and `answer_column`.

    Returns:
        The problems, at least one.

    Raises:
        ConfigError: If there is no such task.
        DataError: If the data cannot be had, lacks a column or a gold answer, or repeats an id.

    Example:
        >>> load_problems("forks", limit=2, task_args={"num_forks": 2}).problems[0].gold.count(" ")
        1
    """
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise ConfigError(f"limit is {limit!r}; it must be at least 1 problem.")
    options = dict(task_args or {})
    for option in options:
        if not isinstance(option, str):
            raise ConfigError(f"task_args names an option {option!r}; names of options are texts, such as num_forks.")
    if task == "forks" or task.startswith("reasoning_gym:"):
        return _from_task(task, limit, seed, options)
    columns = {name: options.pop(name, None) for name in ("prompt_column", "answer_column")}
    table = _table(task)
    if options:
        raise ConfigError(
            f"task {task} has no option {next(iter(options))!r} here. Its options are: {', '.join(columns)}."
        )
    return ProblemSet(task, tuple(_rows(table, limit, columns)))


def _table(task: str) -> Table:
    if task in HUB_TASKS:
        return read_hub(*HUB_TASKS[task])
    path = Path(task).expanduser()
    if path.suffix.lower() in FORMATS or path.is_file() or task.startswith((".", "/", "~")):
        return read_file(path)
    hub_id, _, rest = task.partition(":")
    config, _, split = rest.partition(":")
    if _HUB_ID.fullmatch(hub_id):
        return read_hub(hub_id, config or None, split or "test")
    near = did_you_mean(task, [*HUB_TASKS, "forks"])
    raise ConfigError(
        f"there is no task {task!r}.{near} A task is {', '.join(HUB_TASKS)}, forks, reasoning_gym:<name>, a file "
        f"ending in {', '.join(FORMATS)}, or a data set of the hub, owner/name:configuration:split."
    )


def _rows(table: Table, limit: int | None, options: dict[str, Any]) -> list[Problem]:
    columns = find_columns(table.columns, table.name, **options)
    id_column = next((name for name in _ID_COLUMNS if name in table.columns), None)
    wanted = [*columns.to_read(table.columns), *([id_column] if id_column else [])]
    problems: dict[str, Problem] = {}
    places: dict[str, int] = {}
    for number, row in enumerate(table.rows(wanted)):
        if limit is not None and number >= limit:
            break
        where = f"{table.name}, row {number}"
        prompt = as_prompt(cell(row, columns.prompt, where), where)
        gold = as_gold(cell(row, columns.answer, where), where)
        name = str(number if id_column is None or row.get(id_column) is None else row[id_column])
        if prompt is None:
            raise DataError(f"{where}: there is no prompt in {columns.prompt!r}; every problem needs one.")
        if not gold:
            raise DataError(f"{where}: there is no gold answer in {columns.answer!r}; every problem needs one.")
        if name in problems:
            raise DataError(
                f"{where}: the id {name!r} ({id_column}) was seen in row {places[name]} already; ids must be unique, "
                "as results are stored under them."
            )
        problems[name], places[name] = Problem(name, prompt, gold), number
    return list(problems.values())


def _from_task(name: str, limit: int | None, seed: int, options: dict[str, Any]) -> ProblemSet:
    for option, remedy in (("eval_size", "--limit"), ("seed", "--seed")):
        if option in options:
            raise ConfigError(f"{option} is no option of the task in an evaluation; {remedy} sets it.")
    task = load_task(name, seed=seed, eval_size=limit, **options)
    if task.eval_dataset is None:
        raise DataError(f"task {name} has no held-out prompts to evaluate on.")
    problems = []
    for number, row in enumerate(task.eval_dataset):
        columns = {key: value for key, value in row.items() if key != "prompt"}
        problems.append(Problem(str(number), row["prompt"], str(row.get("answer") or ""), columns))
    return ProblemSet(name, tuple(problems), task.reward_funcs[0])


def _math_scorer(reward: MathReward) -> Scorer:
    def scored(problems: Sequence[Problem], texts: Sequence[str]) -> list[Scored]:
        verdicts = reward.verdicts(texts, [problem.gold for problem in problems])
        return [Scored(score(verdict), verdict.answer, verdict.outcome, verdict.value) for verdict in verdicts]

    return scored


def _reward_scorer(reward: RewardFn) -> Scorer:
    def scored(problems: Sequence[Problem], texts: Sequence[str]) -> list[Scored]:
        columns = {key: [problem.columns[key] for problem in problems] for key in problems[0].columns}
        values = reward(prompts=[problem.prompt for problem in problems], completions=list(texts), **columns)
        # In forks, and much of reasoning-gym, the answer follows the last equals sign.
        answer_of = getattr(reward, "answer_of", None) or (lambda text: text.rpartition("=")[2].strip())
        return [_scored(value, answer_of(text) or None) for value, text in zip(values, texts, strict=True)]

    return scored


def _scored(value: float | None, answer: str | None) -> Scored:
    if value is None:
        return Scored(None, answer, "unparseable_gold")
    outcome = CORRECT if value >= 1 else UNPARSEABLE if answer is None else WRONG
    return Scored(float(value), answer, outcome)


NO_ANSWER = frozenset({UNPARSEABLE, CRASH, "timeout"})
"""Outcomes of completions from which no answer was read; they do not vote."""
