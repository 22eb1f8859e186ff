"""Local files and data sets of the hub as tasks: any table with a prompt and a gold answer in each row."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo.errors import ConfigError, DataError
from dgpo.lab.progress import track
from dgpo.lab.rewards.lint import gold_notes
from dgpo.lab.rewards.registry import can_score, get_reward
from dgpo.lab.tasks.base import Task
from dgpo.lab.tasks.layouts import Columns, Prompt, as_chat, as_gold, as_prompt, cell, fill_template, find_columns
from dgpo.lab.tasks.readers import Table, read_file, read_hub

if TYPE_CHECKING:
    from datasets import Dataset

_EVAL_SIZE = 256


def load_file(
    path: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    rewards: Sequence[str] | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    chat: bool = False,
    eval_file: str | None = None,
) -> Task:
    """Return a local file as a task.

    Rows without a prompt or without a gold answer that can be scored are left out, and so are repeated prompts; the
    description and `metadata` say how many. Held-out rows are those of `eval_file`, else drawn by `seed`; their prompts
    do not occur in the training rows.

    Args:
        path: A `.jsonl`, `.json`, `.csv` or `.parquet` file.
        seed: Of the held-out split.
        eval_size: Held-out rows; by default 256 or a tenth of the rows if that is less, all of `eval_file`; 0 for none.
        rewards: Names of scorers; `None` or `"task"` is `last_number` if all gold answers are numbers, else
            `exact_match`.
        prompt_column: The prompt's column, if it is not one of the known ones.
        answer_column: The gold answer's; a dot leads into a struct.
        system_prompt: Makes chat prompts that begin with this message.
        prompt_template: A text around `{prompt}`.
        chat: Make chat prompts of texts, for a model with a chat template, without a system prompt too.
        eval_file: A file with the held-out rows, of the same columns.

    Returns:
        A task with text or chat prompts and column `answer` (text).

    Raises:
        DataError: If a file is missing, empty or malformed, its columns are not recognised, or no row can be scored.
        ConfigError: If an option cannot work.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = path.write_text("question,answer\\n1 + 1,2\\n1 + 2,3\\n1 + 1,2\\n")
        >>> load_file(str(path), eval_size=0).metadata["duplicates"]
        1
    """
    options = _Options(seed, eval_size, rewards, prompt_column, answer_column, system_prompt, prompt_template, chat)
    table = read_file(Path(path).expanduser())
    return _task(path, table, None if eval_file is None else read_file(Path(eval_file).expanduser()), options)


def load_hub(
    name: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    rewards: Sequence[str] | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    chat: bool = False,
    split: str = "train",
    eval_split: str | None = None,
    eval_file: str | None = None,
) -> Task:
    """Return a data set of the hub as a task; see `load_file` for what it shares with a file.

    Args:
        name: Its id, `owner/name` or `owner/name:configuration`.
        seed: Of the held-out split.
        eval_size: Held-out rows.
        rewards: Names of scorers.
        prompt_column: The prompt's column.
        answer_column: The gold answer's.
        system_prompt: Makes chat prompts that begin with this message.
        prompt_template: A text around `{prompt}`.
        chat: Make chat prompts of texts.
        split: The split to train on.
        eval_split: The split that is held out.
        eval_file: A local file with the held-out rows, instead of `eval_split`.

    Returns:
        A task.

    Raises:
        DataError: If the data set cannot be had, or for what `load_file` refuses.
        ConfigError: If an option cannot work.
    """
    if eval_split is not None and eval_file is not None:
        raise ConfigError("give eval_split or eval_file, not both.")
    options = _Options(seed, eval_size, rewards, prompt_column, answer_column, system_prompt, prompt_template, chat)
    hub_id, _, config = name.partition(":")
    held_out = None
    if eval_file is not None:
        held_out = read_file(Path(eval_file).expanduser())
    elif eval_split is not None:
        held_out = read_hub(hub_id, config or None, eval_split)
    return _task(name, read_hub(hub_id, config or None, split), held_out, options)


@dataclass(frozen=True)
class _Options:
    seed: int
    eval_size: int | None
    rewards: Sequence[str] | None
    prompt_column: str | None
    answer_column: str | None
    system_prompt: str | None
    prompt_template: str | None
    chat: bool

    def __post_init__(self) -> None:
        size = self.eval_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise ConfigError(f"eval_size is {size!r}; it must be a whole number of at least 0.")
        fill_template(self.prompt_template, "")  # refuses a template without {prompt}
        for name in self.rewards or ():
            if name != "task":
                get_reward(name)  # refuses an unknown name before anything is read


@dataclass
class _Rows:
    """The rows of a table that can be used: prompt and gold answer by the prompt's text; and counts of the others."""

    where: str
    usable: dict[str, tuple[Prompt, str]] = field(default_factory=dict)
    read: int = 0
    duplicates: int = 0
    contradictions: int = 0
    without_prompt: int = 0
    without_answer: int = 0
    unscorable: int = 0

    def add(self, prompt: Prompt | None, gold: str) -> None:
        self.read += 1
        if prompt is None:
            self.without_prompt += 1
        elif not gold:
            self.without_answer += 1
        elif (key := _key(prompt)) in self.usable:
            self.duplicates += 1
            self.contradictions += self.usable[key][1] != gold
        else:
            self.usable[key] = (prompt, gold)

    def dropped(self) -> str:
        counts = (
            (self.duplicates, "repeated"),
            (self.contradictions, "of them with another gold answer than the first"),
            (self.without_prompt, "without a prompt"),
            (self.without_answer, "without a gold answer"),
            (self.unscorable, "whose gold answer the reward cannot read"),
        )
        return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _key(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def _collect(table: Table, columns: Columns) -> _Rows:
    rows = _Rows(table.name)
    wanted = columns.to_read(table.columns)
    for number, row in enumerate(track(table.rows(wanted), f"reading {table.name}")):
        where = f"{table.name}, row {number}"
        prompt = as_prompt(cell(row, columns.prompt, where), where)
        rows.add(prompt, as_gold(cell(row, columns.answer, where), where))
    if not rows.usable:
        raise DataError(
            f"{table.name}: no row can be rewarded; of {rows.read:,} rows, {rows.without_answer:,} have no gold answer "
            f"in {columns.answer!r} and {rows.without_prompt:,} no prompt in {columns.prompt!r}."
        )
    return rows


def _keep_scorable(rows: _Rows, names: Sequence[str]) -> None:
    scorable = {key: row for key, row in rows.usable.items() if any(can_score(name, row[1]) for name in names)}
    if not scorable:
        example = next(iter(rows.usable.values()))[1]
        raise DataError(
            f"{rows.where}: no row can be rewarded; {' and '.join(names)} can read none of the {len(rows.usable):,} "
            f"gold answers, such as {example[:100]!r}. Choose another reward, or another answer_column."
        )
    rows.unscorable = len(rows.usable) - len(scorable)
    rows.usable = scorable


def _task(name: str, table: Table, eval_table: Table | None, options: _Options) -> Task:
    columns = find_columns(
        table.columns, table.name, prompt_column=options.prompt_column, answer_column=options.answer_column
    )
    rows = _collect(table, columns)
    golds = [gold for _, gold in rows.usable.values()]
    default = "last_number" if all(can_score("last_number", gold) for gold in golds) else "exact_match"
    names = [default if reward == "task" else reward for reward in options.rewards or ("task",)]
    _keep_scorable(rows, names)
    if eval_table is None:
        train, held_out = _split(list(rows.usable.values()), options)
        shared = 0
    else:
        eval_columns = find_columns(
            eval_table.columns,
            eval_table.name,
            prompt_column=options.prompt_column,
            answer_column=options.answer_column,
        )
        eval_rows = _collect(eval_table, eval_columns)
        _keep_scorable(eval_rows, names)
        held_out = _sample(list(eval_rows.usable.values()), options)
        keys = {_key(prompt) for prompt, _ in held_out}
        train = [row for key, row in rows.usable.items() if key not in keys]
        shared = len(rows.usable) - len(train)
    if not train:
        raise DataError(f"{table.name}: every prompt is held out, none is left for training. Lower eval_size.")
    notes = [
        f"{name}: {len(train):,} prompts, {len(held_out):,} held out ({columns.prompt} / {columns.answer})",
        f"left out: {dropped}" if (dropped := rows.dropped()) else "",
        f"{shared:,} more that are held out" if shared else "",
        *gold_notes(names, [gold for _, gold in [*train, *held_out]]),
    ]
    return Task(
        name=name,
        train_dataset=_dataset(train, options),
        eval_dataset=_dataset(held_out, options) if held_out else None,
        reward_funcs=tuple(get_reward(reward) for reward in names),
        description="; ".join(filter(None, notes)),
        metadata={
            "size": len(train),
            "eval_size": len(held_out),
            "columns": tuple(columns),
            "rewards": tuple(names),
            "rows_read": rows.read,
            "duplicates": rows.duplicates,
            "contradictions": rows.contradictions,
            "without_prompt": rows.without_prompt,
            "without_answer": rows.without_answer,
            "unscorable": rows.unscorable,
            "held_out_of_training": shared,
        },
    )


def _split(
    rows: list[tuple[Prompt, str]], options: _Options
) -> tuple[list[tuple[Prompt, str]], list[tuple[Prompt, str]]]:
    """A seeded split; the order of the training rows stays that of the file."""
    wanted = min(_EVAL_SIZE, len(rows) // 10) if options.eval_size is None else options.eval_size
    if wanted >= len(rows):
        raise DataError(
            f"eval_size is {wanted}, but there are only {len(rows)} rows; at least one must be left for training."
        )
    chosen = set(random.Random(f"held out {options.seed}").sample(range(len(rows)), wanted))
    held_out = [rows[index] for index in sorted(chosen)]
    return [row for index, row in enumerate(rows) if index not in chosen], held_out


def _sample(rows: list[tuple[Prompt, str]], options: _Options) -> list[tuple[Prompt, str]]:
    if options.eval_size is None or options.eval_size >= len(rows):
        return rows
    return random.Random(f"held out {options.seed}").sample(rows, options.eval_size)


def _dataset(rows: Sequence[tuple[Prompt, str]], options: _Options) -> "Dataset":
    from datasets import Dataset

    prompts: list[Any] = [fill_template(options.prompt_template, prompt) for prompt, _ in rows]
    # A column holds one kind: a single chat among texts makes chats of all.
    if options.chat or options.system_prompt is not None or any(isinstance(prompt, list) for prompt in prompts):
        prompts = [as_chat(prompt, options.system_prompt) for prompt in prompts]
    return Dataset.from_dict({"prompt": prompts, "answer": [gold for _, gold in rows]})
