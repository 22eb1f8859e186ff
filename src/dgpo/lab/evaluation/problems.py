"""The problems of an evaluation: exams on the hub by short names, local files, and the tasks that bring a scorer."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.exams import HUB_TASKS
from dgpo.lab.evaluation.scoring import NO_ANSWER, Problem, Scored, Scorer, math_scorer, reward_scorer
from dgpo.lab.rewards.extraction import AnswerFormat
from dgpo.lab.rewards.math import MathReward
from dgpo.lab.tasks.base import RewardFn
from dgpo.lab.tasks.layouts import as_gold, as_prompt, cell, fill_template, find_columns
from dgpo.lab.tasks.prompting import PromptFormat
from dgpo.lab.tasks.readers import FORMATS, Table, read_file, read_hub
from dgpo.lab.tasks.registry import load_task
from dgpo.names import did_you_mean

__all__ = ["HUB_TASKS", "NO_ANSWER", "Problem", "ProblemSet", "Scored", "Scorer", "load_problems"]

_ID_COLUMNS = ("id", "unique_id", "problem_id", "ID")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ProblemSet:
    """The problems of an evaluation and the way to score them.

    Attributes:
        name: The task.
        problems: The problems, in order.
        reward: The task's own scorer; `None` for mathematical answers, which the protocol's format reads.
        chat: Whether prompts go through the model's chat template; `None` where its tokenizer has one.
        notes: What was left out of the data and why.
    """

    name: str
    problems: tuple[Problem, ...]
    reward: RewardFn | None = None
    chat: bool | None = None
    notes: tuple[str, ...] = ()

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
        return replace(self, problems=problems)

    def for_model(self, prompts: PromptFormat, tokenizer: Any) -> "ProblemSet":
        """Return the same problems with prompts in the form that the trainer gives to this model.

        Args:
            prompts: How prompts are put to it.
            tokenizer: Its tokenizer.

        Returns:
            Problems.
        """
        problems = tuple(replace(p, prompt=prompts.form(p.prompt, tokenizer)) for p in self.problems)
        return replace(self, problems=problems)

    def scorer(self, answer_format: AnswerFormat) -> Scorer:
        """Return what scores completions.

        Args:
            answer_format: Where a mathematical answer is looked for.

        Returns:
            A function of problems, texts and whether each was cut off.
        """
        if self.reward is None:
            return math_scorer(MathReward(answer_format))
        if isinstance(self.reward, MathReward):
            return math_scorer(self.reward)
        return reward_scorer(self.reward, after_equals=_has_scorer(self.name))


def asks_protocol(task: str, protocol: str | None) -> bool:
    """Return whether a protocol decides prompt and scorer: for exams, and where one is named for other data.

    Args:
        task: A name of `dgpo tasks`, a file, or a data set of the hub.
        protocol: The protocol that is asked for; `None` for none.

    Returns:
        Whether the prompt and the scorer of training are not used.

    Example:
        >>> asks_protocol("aime24", None), asks_protocol("sums.jsonl", None), asks_protocol("sums.jsonl", "dapo")
        (True, False, True)
    """
    return not _has_scorer(task) and (task in HUB_TASKS or protocol is not None)


def on_hub(task: str) -> bool:
    """Return whether the problems lie on the hub.

    Args:
        task: As for `load_problems`.

    Returns:
        Whether reading them may need the network.

    Raises:
        ConfigError: If there is no such task.
    """
    if _has_scorer(task) or (task not in HUB_TASKS and _looks_like_file(task)):
        return False
    if task not in HUB_TASKS and not _HUB_ID.fullmatch(task.partition(":")[0]):
        raise ConfigError(_unknown(task))
    return True


def _has_scorer(task: str) -> bool:
    return task == "forks" or task.startswith("reasoning_gym:")


def load_problems(
    task: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    task_args: dict[str, Any] | None = None,
    rewards: Sequence[str] | None = None,
    reward_options: Mapping[str, Mapping[str, Any]] | None = None,
    as_trained: bool = False,
    held_out: bool = False,
    eval_size: int | None = None,
) -> ProblemSet:
    """Return the problems of a task.

    Args:
        task: `aime24`, `aime25`, `math500`, `gsm8k`, `amc23`; a file; `owner/name[:configuration[:split]]` of the hub;
            `forks` or `reasoning_gym:<name>`, of which the held-out prompts are taken.
        limit: Only the first so many problems.
        seed: Of the held-out prompts.
        task_args: Options of the task; without `as_trained`, files have `prompt_column`, `answer_column` and `chat`.
        rewards: Names of scorers, of which the first one scores; `None` for the task's own.
        reward_options: Options of rewards.
        as_trained: Ask and score files and data sets of the hub as training does, instead of as mathematics.
        held_out: The prompts that training holds out; of files and data sets, all rows are taken otherwise.
        eval_size: How many it holds out; with `held_out` alone.

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
    if _has_scorer(task) or (as_trained and task not in HUB_TASKS):
        if not _has_scorer(task) and not _looks_like_file(task) and "/" not in task:
            raise ConfigError(_unknown(task))
        for option, remedy in (("eval_size", "--limit"), ("seed", "--seed")):
            if option in options:
                raise ConfigError(f"{option} is no option of the task in an evaluation; {remedy} sets it.")
        options |= {"rewards": rewards, "reward_options": reward_options, "seed": seed}
        if not held_out:
            eval_size = limit if _has_scorer(task) else 0
        return _of_task(task, limit, {**options, "eval_size": eval_size}, held_out=held_out or _has_scorer(task))
    columns = {name: options.pop(name, None) for name in ("prompt_column", "answer_column")}
    chat = options.pop("chat", None)
    table = _table(task)
    if options:
        raise ConfigError(
            f"task {task} has no option {next(iter(options))!r} here. Its options are: {', '.join(columns)}, chat."
        )
    return ProblemSet(task, tuple(_rows(table, limit, columns)), chat=PromptFormat(chat).chat)


def _table(task: str) -> Table:
    if task in HUB_TASKS:
        return read_hub(*HUB_TASKS[task])
    if _looks_like_file(task):
        return read_file(Path(task).expanduser())
    hub_id, _, rest = task.partition(":")
    config, _, split = rest.partition(":")
    if _HUB_ID.fullmatch(hub_id):
        return read_hub(hub_id, config or None, split or "test")
    raise ConfigError(_unknown(task))


def _unknown(task: str) -> str:
    near = did_you_mean(task, [*HUB_TASKS, "forks"])
    return (
        f"there is no task {task!r}.{near} A task is {', '.join(HUB_TASKS)}, forks, reasoning_gym:<name>, a file "
        f"ending in {', '.join(FORMATS)}, or a data set of the hub, owner/name:configuration:split."
    )


def _looks_like_file(task: str) -> bool:
    path = Path(task).expanduser()
    return path.suffix.lower() in FORMATS or os.path.isfile(path) or task.startswith((".", "/", "~"))


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
        golds = {"answer": gold} if isinstance(gold, list) else {}
        text = gold if isinstance(gold, str) else " | ".join(gold)
        problems[name], places[name] = Problem(name, prompt, text, golds), number
    return list(problems.values())


def _of_task(name: str, limit: int | None, options: dict[str, Any], *, held_out: bool) -> ProblemSet:
    """The problems of a task as training asks and scores them: its held-out rows, or all rows of a table."""
    if not held_out:
        if name.count(":") > 1:  # owner/name:configuration:split
            name, _, options["split"] = name.rpartition(":")
        elif not _looks_like_file(name):
            options.setdefault("split", "test")
    task = load_task(name, **options)
    rows = task.eval_dataset if held_out else task.train_dataset
    if rows is None:
        raise DataError(f"task {name} has no held-out prompts to evaluate on.")
    rows = rows.select(range(min(limit, len(rows)))) if limit is not None else rows
    return ProblemSet(name, problems_of(rows), task.reward_funcs[0], task.chat, task.notes)


def problems_of(rows: Any) -> tuple[Problem, ...]:
    """Return the rows of a task's data set as problems.

    Args:
        rows: A data set with a column `prompt`.

    Returns:
        One problem a row, named by its number.
    """
    problems = []
    for number, row in enumerate(rows):
        columns = {key: value for key, value in row.items() if key != "prompt"}
        gold = row.get("answer")
        text = " | ".join(gold) if isinstance(gold, list) else str(gold or "")
        problems.append(Problem(str(number), row["prompt"], text, columns))
    return tuple(problems)
