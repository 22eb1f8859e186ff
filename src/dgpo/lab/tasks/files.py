"""Local files and data sets of the hub as tasks: any table with a prompt and a gold answer in each row."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo.errors import DataError
from dgpo.lab.rewards.registry import any_answer, is_own
from dgpo.lab.tasks.base import Task
from dgpo.lab.tasks.columns import Columns
from dgpo.lab.tasks.layouts import as_chat, fill_template
from dgpo.lab.tasks.options import TableOptions, check_sources
from dgpo.lab.tasks.readers import Table, read_file, read_hub
from dgpo.lab.tasks.rows import Row, default_reward, prompt_key

_EVAL_SIZE = 256


def load_file(
    path: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    rewards: Sequence[str] | None = None,
    reward_options: Mapping[str, Mapping[str, Any]] | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    chat: bool | None = None,
    eval_file: str | None = None,
) -> Task:
    """Return a local file as a task.

    Rows without a prompt or without a gold answer that can be scored are left out, and so are repeated prompts; the
    notes and `metadata` say how many. A gold answer may be a list of acceptable ones. Held-out rows are those of
    `eval_file`, else drawn by `seed`; their prompts do not occur in the training rows.

    Args:
        path: A `.jsonl`, `.json`, `.csv` or `.parquet` file.
        seed: Of the held-out split.
        eval_size: Held-out rows; by default 256 or a tenth of the rows if that is less, all of `eval_file`; 0 for none.
        rewards: Names of scorers, or import paths of functions, which then get the other columns of the file too.
            `None` or `"task"` is `last_number` if most gold answers are numbers, else `exact_match`.
        reward_options: Options of rewards, by their names.
        prompt_column: The prompt's column, if it is not one of the known ones.
        answer_column: The gold answer's; a dot leads into a struct.
        system_prompt: Makes chat prompts that begin with this message.
        prompt_template: A text around `{prompt}`.
        chat: Whether prompts go through the chat template of the model; `None` where its tokenizer has one.
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
    options = TableOptions(
        *(seed, eval_size, rewards, reward_options or {}, prompt_column, answer_column),
        *(system_prompt, prompt_template, chat),
    )
    check_sources(None, eval_file)
    table = read_file(Path(path).expanduser())
    return _task(path, table, None if eval_file is None else read_file(Path(eval_file).expanduser()), options)


def load_hub(
    name: str,
    *,
    seed: int = 0,
    eval_size: int | None = None,
    rewards: Sequence[str] | None = None,
    reward_options: Mapping[str, Mapping[str, Any]] | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    chat: bool | None = None,
    split: str = "train",
    eval_split: str | None = None,
    eval_file: str | None = None,
) -> Task:
    """Return a data set of the hub as a task; see `load_file` for what it shares with a file.

    Args:
        name: Its id, `owner/name` or `owner/name:configuration`.
        seed: Of the held-out split.
        eval_size: Held-out rows.
        rewards: Names of scorers, or import paths.
        reward_options: Options of rewards, by their names.
        prompt_column: The prompt's column.
        answer_column: The gold answer's.
        system_prompt: Makes chat prompts that begin with this message.
        prompt_template: A text around `{prompt}`.
        chat: Whether prompts go through the chat template of the model.
        split: The split to train on.
        eval_split: The split that is held out.
        eval_file: A local file with the held-out rows, instead of `eval_split`.

    Returns:
        A task.

    Raises:
        DataError: If the data set cannot be had, or for what `load_file` refuses.
        ConfigError: If an option cannot work.
    """
    check_sources(eval_split, eval_file, split)
    options = TableOptions(
        *(seed, eval_size, rewards, reward_options or {}, prompt_column, answer_column),
        *(system_prompt, prompt_template, chat),
    )
    hub_id, _, config = name.partition(":")
    held_out = None
    if eval_file is not None:
        held_out = read_file(Path(eval_file).expanduser())
    elif eval_split is not None:
        held_out = read_hub(hub_id, config or None, eval_split)
    return _task(name, read_hub(hub_id, config or None, split), held_out, options)


def _task(name: str, table: Table, eval_table: Table | None, options: TableOptions) -> Task:
    rows, columns = options.collect(table)
    default = default_reward([row.gold for row in rows.usable.values()])
    names = [default if reward == "task" else reward for reward in options.rewards or ("task",)]
    rows.keep_scorable(names)
    if eval_table is None:
        train, held_out = _split(list(rows.usable.values()), options)
        eval_notes, shared = [], 0
    else:
        eval_rows, _ = options.collect(eval_table)
        eval_rows.keep_scorable(names)
        held_out = _sample(list(eval_rows.usable.values()), options)
        keys = {prompt_key(row.prompt) for row in held_out}
        train = [row for key, row in rows.usable.items() if key not in keys]
        shared = len(rows.usable) - len(train)
        eval_notes = [f"left out of the held-out rows: {dropped}" if (dropped := eval_rows.dropped()) else ""]
        eval_notes += [note for note in eval_rows.notes if note not in rows.notes]
    if not train:
        raise DataError(f"{table.name}: every prompt is held out, none is left for training. Lower eval_size.")
    notes = [
        f"left out: {dropped}" if (dropped := rows.dropped()) else "",
        f"{shared:,} more that are held out" if shared else "",
        *rows.notes,
        *eval_notes,
    ]
    notes = [note for note in notes if note]
    several = any(isinstance(row.gold, list) for row in [*train, *held_out])
    rewards = [options.reward(reward) for reward in names]
    if several:
        rewards = [fn if is_own(reward) else any_answer(fn) for reward, fn in zip(names, rewards, strict=True)]
    found = f"{name}: {len(train):,} prompts, {len(held_out):,} held out ({columns[0]} / {columns[1]})"
    return Task(
        name=name,
        train=_columns(train, options, several, table.name),
        held_out=_columns(held_out, options, several, table.name) if held_out else None,
        reward_funcs=tuple(rewards),
        description="; ".join([found, *notes]),
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
        notes=tuple(notes),
        chat=options.chat,
    )


def _split(rows: list[Row], options: TableOptions) -> tuple[list[Row], list[Row]]:
    """A seeded split; the order of the training rows stays that of the file."""
    wanted = min(_EVAL_SIZE, len(rows) // 10) if options.eval_size is None else options.eval_size
    if wanted >= len(rows):
        raise DataError(
            f"eval_size is {wanted}, but there are only {len(rows)} rows; at least one must be left for training."
        )
    chosen = set(random.Random(f"held out {options.seed}").sample(range(len(rows)), wanted))
    held_out = [rows[index] for index in sorted(chosen)]
    return [row for index, row in enumerate(rows) if index not in chosen], held_out


def _sample(rows: list[Row], options: TableOptions) -> list[Row]:
    if options.eval_size is None or options.eval_size >= len(rows):
        return rows
    return random.Random(f"held out {options.seed}").sample(rows, options.eval_size)


def _columns(rows: Sequence[Row], options: TableOptions, several: bool, where: str) -> Columns:
    prompts: list[Any] = [fill_template(options.prompt_template, row.prompt) for row in rows]
    # A column holds one kind: a single chat among texts makes chats of all.
    if options.chat or options.system_prompt is not None or any(isinstance(prompt, list) for prompt in prompts):
        prompts = [as_chat(prompt, options.system_prompt) for prompt in prompts]
    golds: list[Any] = [row.gold for row in rows]
    if several:
        golds = [gold if isinstance(gold, list) else [gold] for gold in golds]
    columns = {"prompt": prompts, "answer": golds}
    for name in rows[0].others:
        import pyarrow as pa

        values = [row.others.get(name) for row in rows]
        try:
            pa.array(values)
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: the column {name!r} holds half of a character (a lone surrogate), and a reward of your own "
                "would get it. Repair the file, or take the column out."
            ) from None
        except (pa.ArrowException, OverflowError):
            raise DataError(
                f"{where}: the column {name!r} holds values of several kinds, and a reward of your own would get it. "
                "Make them of one kind, or take the column out."
            ) from None
        columns[name] = values
    return Columns(columns)
