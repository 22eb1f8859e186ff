"""Data that no one meant to be read: half characters, damaged files, options of the wrong kind."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgpo.errors import ConfigError, DataError
from dgpo.lab.evaluation.problems import load_problems
from dgpo.lab.tasks import load_task

ROWS = [{"problem": f"{i} + 1", "answer": str(i + 1)} for i in range(30)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def both(name, **options):
    """Load a file as a task, and as problems of an evaluation."""
    yield lambda: load_task(name, eval_size=0, **options)
    yield lambda: load_problems(name, task_args=options)


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "half \ud83d", "answer": "1"},
        {"problem": "1 + 1", "answer": "\udc80 2"},
        {"problem": "1 + 1", "answer": ["2", "\udfff"]},
        {"problem": [{"role": "user", "content": "\ud83d"}], "answer": "2"},
        {"problem": [{"role": "\ud83d", "content": "a"}, {"role": "user", "content": "a"}], "answer": "2"},
    ],
    ids=ascii,
)
def test_half_of_a_character_is_refused_with_its_row(tmp_path, row):
    for load in both(write(tmp_path / "x.jsonl", [*ROWS[:2], row])):
        with pytest.raises(DataError, match=r"x.jsonl, row 2: .*half of a character .*U\+D[8-F]"):
            load()


def test_half_of_a_character_in_another_column_is_refused_where_it_would_be_read(tmp_path):
    (tmp_path / "own.py").write_text("def score(completions, extra, **columns):\n    return [0.0] * len(completions)\n")
    path = write(tmp_path / "x.jsonl", [{**row, "extra": "\ud83d"} for row in ROWS])
    assert len(load_task(path, eval_size=0).train_dataset) == 30
    with pytest.raises(DataError, match="column 'extra' holds half of a character"):
        load_task(path, eval_size=0, rewards=[f"{tmp_path / 'own.py'}:score"])


def test_numbers_beyond_the_table_format_are_refused(tmp_path):
    (tmp_path / "own.py").write_text("def score(completions, extra, **columns):\n    return [0.0] * len(completions)\n")
    path = write(tmp_path / "x.jsonl", [{**row, "extra": 10**30} for row in ROWS])
    with pytest.raises(DataError, match="column 'extra'"):
        load_task(path, eval_size=0, rewards=[f"{tmp_path / 'own.py'}:score"])


def test_a_damaged_parquet_page_is_refused_with_the_row(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [{"problem": f"{i} + 1", "answer": str(i)} for i in range(20_000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5000, compression="snappy")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    for load in both(str(path)):
        with pytest.raises(DataError, match=r"x.parquet is damaged after row \d+"):
            load()


def test_texts_of_a_parquet_file_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff1"))
    pq.write_table(pa.table({"problem": texts, "answer": ["1", "2"]}), path)
    for load in both(str(path)):
        with pytest.raises(DataError, match="damaged after row 0: a text is not UTF-8"):
            load()


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}, True, 1.5], ids=repr)
@pytest.mark.parametrize("name", ["system_prompt", "prompt_template", "eval_file", "prompt_column", "answer_column"])
def test_options_that_are_no_text_are_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name} is .*must be a text"):
        load_task(write(tmp_path / "x.jsonl", ROWS), **{name: value})


@pytest.mark.parametrize("name", ["system_prompt", "prompt_template"])
def test_half_of_a_character_in_an_option_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: character 9 of a text is half of a character"):
        load_task(write(tmp_path / "x.jsonl", ROWS), **{name: "{prompt} \ud83d"})


@pytest.mark.parametrize("name", ["eval_file", "prompt_column", "answer_column"])
def test_an_empty_name_is_refused(tmp_path, name):
    path = write(tmp_path / "x.jsonl", [{**row, "": "x"} for row in ROWS])
    with pytest.raises(ConfigError, match=f"{name} is ''"):
        load_task(path, **{name: ""})
    if name != "eval_file":
        with pytest.raises(ConfigError, match=f"{name} is ''"):
            load_problems(path, task_args={name: ""})


@pytest.mark.parametrize("options", [{"prompt_column": "answer"}, {"answer_column": "problem"}], ids=str)
def test_one_column_for_prompt_and_answer_is_refused(tmp_path, options):
    for load in both(write(tmp_path / "x.jsonl", ROWS), **options):
        with pytest.raises(DataError, match="both the prompt and the gold answer"):
            load()


@pytest.mark.parametrize("options", [{"split": 5}, {"split": ""}, {"eval_split": ["a"]}, {"eval_file": 5}], ids=str)
def test_sources_of_a_data_set_of_the_hub_that_are_no_text_are_refused(options):
    with pytest.raises(ConfigError, match="must be a text"):
        load_task("owner/name", **options)
