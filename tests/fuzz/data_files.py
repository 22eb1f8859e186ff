"""Random data files, each from a seed: read, or refused in one message."""

import json
import math
import random
from pathlib import Path

from dgpo.errors import DgpoError
from dgpo.lab.evaluation.problems import load_problems
from dgpo.lab.tasks import load_task

CELLS = [
    *(
        "1 + 1",
        "2",
        "",
        " ",
        None,
        3,
        2.5,
        True,
        math.nan,
        10**400,
        "\ud83d",
        "\u202e",
        "\x1b[2J",
        "[/b]",
        "x" * 10_000,
    ),
    *(
        ["a", "b"],
        [],
        [None],
        [["a"]],
        {"ground_truth": "3"},
        {"a": {"b": 1}},
        "#### 1e999999999",
        "#### 5",
        "\\boxed{",
    ),
    *([{"role": "user", "content": "1?"}], [{"role": "assistant", "content": "1"}], [{"role": "user"}], [5], "1e400"),
    *(
        "\\boxed{" * 200,
        "\\boxed{\\frac{1}{2}}",
        "NaN",
        "Infinity",
        "1/0",
        "２",
        "{prompt}",
        "{}",
        "%s",
        "\0",
        "a\nb\r\nc",
    ),
]
COLUMNS = [
    "problem",
    "question",
    "prompt",
    "answer",
    "solution",
    "ground_truth",
    "reward_model",
    "id",
    "",
    "a.b",
    "\ud800",
]
FILE_OPTIONS = {
    "prompt_column": ["question", "answer", "", 5, ["a"], "a.b", "reward_model.ground_truth"],
    "answer_column": ["answer", "problem", "", None, "reward_model.ground_truth", "id.x"],
    "system_prompt": ["", "Be brief.", 5, ["a"], "\ud800"],
    "prompt_template": ["{prompt}", "no place", 5, "{prompt}{prompt}", "{"],
    "eval_file": [5, ["a"], "none.jsonl", "", "\0", "x" * 5000, "/dev/null"],
    "chat": [True, False, "no", 5],
}


def write_data(seed: int, folder: Path) -> Path:
    """Write a data file of random rows, possibly damaged."""
    draw = random.Random(seed)
    ending = draw.choice(("jsonl", "jsonl", "json", "csv", "parquet"))
    columns = draw.sample(COLUMNS, draw.randrange(1, 5)) if draw.random() < 0.5 else ["problem", "answer"]
    wild = draw.random() < 0.6
    rows = [
        {name: draw.choice(CELLS) if wild and draw.random() < 0.3 else str(draw.randrange(99)) for name in columns}
        for _ in range(draw.choice((0, 1, 3, 12)))
    ]
    path = folder / f"data.{ending}"
    data = _parquet(rows, path) if ending == "parquet" else _text(draw, ending, columns, rows)
    if data and draw.random() < 0.3:
        for _ in range(draw.choice((1, 1, 5))):
            place = draw.randrange(len(data))
            how = draw.choice(("flip", "cut", "insert"))
            flipped = data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
            data = {"flip": flipped, "cut": data[: place + 1], "insert": data[:place] + b"\xff\0" + data[place:]}[how]
    path.write_bytes(data)
    return path


def _text(draw: random.Random, ending: str, columns: list[str], rows: list[dict]) -> bytes:
    if ending == "csv":
        lines = [",".join(columns), *(",".join(str(row[name])[:200] for name in columns) for row in rows)]
        text = "\n".join(lines)
    elif ending == "json":
        text = json.dumps(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    return draw.choice((b"", b"", b"\xef\xbb\xbf")) + text.encode("utf-8", "surrogatepass")


def _parquet(rows: list[dict], path: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.write_table(pa.Table.from_pylist(rows or [{"problem": "1", "answer": "1"}]), path)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        pq.write_table(pa.table({"problem": ["1?", "2?"], "answer": ["1", "2"]}), path)
    return path.read_bytes()


def data_read(seed: int, folder: Path) -> str:
    """Read a random file as a task and as problems: `"read"` or `"refused"`, in one bounded message."""
    path, draw, outcome = write_data(seed, folder), random.Random(-seed), "read"
    options = {name: draw.choice(values) for name, values in FILE_OPTIONS.items() if draw.random() < 0.1}
    of_problems = {name: value for name, value in options.items() if name in ("prompt_column", "answer_column", "chat")}
    for load in (
        lambda: load_task(str(path), eval_size=draw.choice((0, 1, None)), **options),
        lambda: load_problems(str(path), task_args=of_problems).fingerprint(),
    ):
        try:
            load()
        except DgpoError as error:
            outcome, message = "refused", str(error)
        else:
            message = ""
        assert len(message) < 15_000  # a path of 5,000 characters may be named twice
    return outcome
