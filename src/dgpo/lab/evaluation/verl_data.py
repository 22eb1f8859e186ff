"""DAPO-Math-17k, AIME 2024 and AIME 2025, or files of one's own, as the parquet files that recipes/verl reads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, DataError
from dgpo.io import write_atomically
from dgpo.lab.foreign_text import say
from dgpo.lab.tasks.layouts import Message, Prompt, as_chat, fill_template

SOURCES = {
    "dapo-math-17k": "BytedTsinghua-SIA/DAPO-Math-17k",
    "aime24": "aime24",
    "aime25": "aime25",
}
"""The files, and where their rows come from by default."""

TRAINING = "dapo-math-17k"
_DATA_SOURCE = {TRAINING: "math_dapo"}
# What DAPO's prompt asks for, and what the reward of the recipes looks for.
_ANSWER_LINE = "Answer:"

Row = dict[str, Any]


def write_verl_data(folder: Path, sources: Mapping[str, str]) -> None:
    """Write the files, and print what is in them.

    Everything is read and checked before the first file is written, and a file is whole or absent.

    Args:
        folder: Where to write; it is made.
        sources: Other sources than the defaults, by the keys of `SOURCES`.

    Raises:
        ConfigError: If `folder` is a file.
        DataError: If a source cannot be read, or a file cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to write to.")
    sources = {**SOURCES, **sources}
    exams = {name: exam_rows(name, source) for name, source in sources.items() if name != TRAINING}
    problems = [row["extra_info"]["problem"] for rows in exams.values() for row in rows]
    training, summary = training_rows(sources[TRAINING], problems)
    for name, rows in {TRAINING: training, **exams}.items():
        _write(folder / f"{name}.parquet", rows)
        say(f"{folder / name}.parquet: {summary if name == TRAINING else f'{len(rows)} problems'}")


def write_own_data(folder: Path, train: str, val: str | None = None, *, plain: bool = False) -> None:
    """Write `train.parquet` and `val.parquet` from data of one's own, and print what is in them.

    Args:
        folder: Where to write; it is made.
        train: A file or a data set of the hub, in any layout that `dgpo train` reads.
        val: A file with the held-out rows, whose prompts are left out of the training; by default those that
            `dgpo train` would hold out of `train`.
        plain: Leave the prompts as they are, for a reward function of one's own. Otherwise they are put into the
            template that asks for a last line `Answer:`, which the reward of the recipes looks for.

    Raises:
        ConfigError: If `folder` is a file.
        DataError: If a source cannot be read, or a file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> rows = ["question,answer", *(f"{i} + 1,{i + 1}" for i in range(20))]
        >>> _ = (folder / "sums.csv").write_text("\\n".join(rows))
        >>> write_own_data(folder, str(folder / "sums.csv"), plain=True)  # doctest: +ELLIPSIS
        /.../train.parquet: 18 prompts
        /.../val.parquet: 2 prompts
    """
    from dgpo.lab.tasks import load_task

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to write to.")
    options: dict[str, Any] = {} if val is None else {"eval_file": val}
    task = load_task(train, **options)
    if task.eval_dataset is None:
        raise DataError(f"{train}: there are too few rows to hold some out; name a file of them with --val.")
    files = {"train": task.train_dataset, "val": task.eval_dataset}
    prepare = (lambda prompt: as_chat(prompt, None)) if plain else _with_answer_line
    for split, data in files.items():
        name = Path(val or train if split == "val" else train).stem
        pairs = enumerate(zip(data["prompt"], data["answer"], strict=True))
        rows = [_row(name, str(index), prepare(prompt), gold, split, "") for index, (prompt, gold) in pairs]
        _write(folder / f"{split}.parquet", rows)
        say(f"{folder / split}.parquet: {len(rows):,} prompts")


def training_rows(source: str, held_out: Sequence[str] = ()) -> tuple[list[Row], str]:
    """Return the training prompts in verl's columns, each once, and a sentence on what was left out.

    Args:
        source: A data set of the hub or a file, in any layout that `dgpo train` reads.
        held_out: Problems of exams; a training prompt that contains one of them is left out.

    Returns:
        Rows with `data_source`, `prompt`, `ability`, `reward_model` and `extra_info`, in the order of the source.

    Raises:
        DataError: If the source cannot be read, or nothing is left.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = path.write_text("problem,answer\\n1 + 1,2\\n1 + 1,2\\n")
        >>> rows, summary = training_rows(str(path))
        >>> rows[0]["reward_model"]["ground_truth"], summary
        ('2', '1 prompts of 2 rows; 1 repeated; 1 put into the template of DAPO')
    """
    from dgpo.lab.tasks import load_task

    task = load_task(source, eval_size=0, rewards=["math"])
    exam_texts = [_single_spaced(text) for text in held_out]
    rows: list[Row] = []
    leaked = reworded = 0
    for prompt, gold in zip(task.train_dataset["prompt"], task.train_dataset["answer"], strict=True):
        messages = _with_answer_line(prompt)
        problem = _single_spaced(messages[-1]["content"])
        if any(text in problem for text in exam_texts):
            leaked += 1
            continue
        reworded += messages != as_chat(prompt, None)
        rows.append(_row(TRAINING, str(len(rows)), messages, gold, "train", ""))
    if not rows:
        raise DataError(f"{source}: every prompt is a problem of the exams; none is left to train on.")
    facts = task.metadata
    counts = (
        (facts["duplicates"], "repeated"),
        (facts["contradictions"], "of them with another gold answer than the first, which was kept"),
        (facts["without_prompt"], "without a prompt"),
        (facts["without_answer"] + facts["unscorable"], "without a gold answer"),
        (leaked, "left out as problems of the exams"),
        (reworded, "put into the template of DAPO"),
    )
    left_out = [f"{count:,} {what}" for count, what in counts if count]
    return rows, "; ".join([f"{len(rows):,} prompts of {facts['rows_read']:,} rows", *left_out])


def exam_rows(name: str, source: str) -> list[Row]:
    """Return the problems of an exam in verl's columns, with the template of DAPO's protocol.

    Args:
        name: What verl's metrics call it.
        source: `aime24`, `aime25`, a data set of the hub or a file.

    Returns:
        Rows as those of `training_rows`; `extra_info.problem` is the problem as it stands in the source.

    Raises:
        DataError: If the source cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "exam.csv"
        >>> _ = path.write_text("problem,answer\\n1 + 1,2\\n")
        >>> exam_rows("aime24", str(path))[0]["prompt"][0]["content"].splitlines()[2]
        '1 + 1'
    """
    from dgpo.lab.evaluation.problems import load_problems

    rows = []
    for problem in load_problems(source).problems:
        text = as_chat(problem.prompt, None)[-1]["content"]
        rows.append(_row(name, problem.name, _with_answer_line(problem.prompt), problem.gold, "test", text))
    return rows


def _with_answer_line(prompt: Prompt) -> list[Message]:
    """The prompt as messages, in the template of DAPO's protocol unless it asks for a line `Answer:` already."""
    from dgpo.lab.evaluation.protocols import get_protocol

    messages = as_chat(prompt, None)
    if _ANSWER_LINE in messages[-1]["content"]:
        return messages
    return as_chat(fill_template(get_protocol("dapo").prompt_template, messages), None)


def _row(name: str, index: str, prompt: list[Message], gold: str, split: str, problem: str) -> Row:
    # One schema for all files: verl concatenates those of an evaluation.
    return {
        "data_source": _DATA_SOURCE.get(name, name),
        "prompt": prompt,
        "ability": "MATH",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": index, "split": split, "problem": problem},
    }


def _single_spaced(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    try:
        write_atomically(path, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error
