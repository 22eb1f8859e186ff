"""`dgpo verl-data FOLDER`: DAPO-Math-17k, AIME 2024 and AIME 2025 as the parquet files that recipes/verl reads."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dgpo.errors import DataError, RecipeError
from dgpo.lab.cli import help as manual
from dgpo.lab.tasks.layouts import Message, Prompt, as_chat, fill_template
from dgpo.names import did_you_mean

SOURCES = {
    "dapo-math-17k": "BytedTsinghua-SIA/DAPO-Math-17k",
    "aime24": "aime24",
    "aime25": "aime25",
}
"""The files, and where their rows come from by default."""

TRAINING = "dapo-math-17k"
_DATA_SOURCE = {TRAINING: "math_dapo"}
# What DAPO's prompt asks for, and what the reward of the recipes looks for.
_ASKED_FOR = "Answer:"

Row = dict[str, Any]


def verl_data(words: Sequence[str]) -> int:
    """Write the files and return the exit code.

    Everything is read and checked before the first file is written, and a file appears when it is whole.

    Args:
        words: The words after `dgpo verl-data`: the folder, and `--<file> SOURCE` for another source.

    Returns:
        0.

    Raises:
        DgpoError: If the words cannot be understood or a source cannot be read.
    """
    folder, sources = _sort(words)
    exams = {name: exam_rows(name, source) for name, source in sources.items() if name != TRAINING}
    problems = [row["extra_info"]["problem"] for rows in exams.values() for row in rows]
    training, summary = training_rows(sources[TRAINING], problems)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {TRAINING: training, **exams}.items():
        _write(folder / f"{name}.parquet", rows)
        print(f"{folder / name}.parquet: {summary if name == TRAINING else f'{len(rows)} problems'}")
    return 0


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
        ('2', '1 prompts of 2 rows; 1 repeated; 1 put into the words of DAPO')
    """
    from dgpo.lab.tasks import load_task

    task = load_task(source, eval_size=0, rewards=["math"])
    exam_texts = [_plain(text) for text in held_out]
    rows: list[Row] = []
    leaked = reworded = 0
    for prompt, gold in zip(task.train_dataset["prompt"], task.train_dataset["answer"], strict=True):
        asked = _asking_for_an_answer(prompt)
        plain = _plain(asked[-1]["content"])
        if any(text in plain for text in exam_texts):
            leaked += 1
            continue
        reworded += asked != as_chat(prompt, None)
        rows.append(_row(TRAINING, str(len(rows)), asked, gold, "train", ""))
    if not rows:
        raise DataError(f"{source}: every prompt is a problem of the exams; none is left to train on.")
    facts = task.metadata
    counts = (
        (facts["duplicates"], "repeated"),
        (facts["contradictions"], "of them with another gold answer than the first, which was kept"),
        (facts["without_prompt"], "without a prompt"),
        (facts["without_answer"] + facts["unscorable"], "without a gold answer"),
        (leaked, "left out as problems of the exams"),
        (reworded, "put into the words of DAPO"),
    )
    left_out = [f"{count:,} {what}" for count, what in counts if count]
    return rows, "; ".join([f"{len(rows):,} prompts of {facts['rows_read']:,} rows", *left_out])


def exam_rows(name: str, source: str) -> list[Row]:
    """Return the problems of an exam in verl's columns, asked in the words of DAPO's protocol.

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
        rows.append(_row(name, problem.name, _asking_for_an_answer(problem.prompt), problem.gold, "test", text))
    return rows


def _asking_for_an_answer(prompt: Prompt) -> list[Message]:
    """The prompt as messages, in the words of DAPO's protocol unless it asks for an answer's line already."""
    from dgpo.lab.evaluation.protocols import get_protocol

    messages = as_chat(prompt, None)
    if _ASKED_FOR in messages[-1]["content"]:
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


def _plain(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows)), part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error


def _sort(words: Sequence[str]) -> tuple[Path, dict[str, str]]:
    folder: Path | None = None
    sources = dict(SOURCES)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if folder is not None:
                raise RecipeError(f"dgpo verl-data takes one folder, got {folder} and {word}.")
            folder = Path(word).expanduser()
        elif name not in SOURCES:
            hint = did_you_mean(name, SOURCES)
            options = ", ".join(f"--{known}" for known in SOURCES)
            raise RecipeError(f"dgpo verl-data has no option {word!r}.{hint} Its options are: {options}.")
        elif not equals and not rest:
            raise RecipeError(f"--{name} needs a file, or a data set of the hub.")
        else:
            sources[name] = value if equals else rest.pop(0)
    if folder is None:
        raise RecipeError("dgpo verl-data needs the folder to write to.\n\n" + manual.VERL_DATA)
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a folder to write to.")
    return folder, sources
