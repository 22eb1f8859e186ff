"""`dgpo verl-data`: files in the layouts of the hub become the files that recipes/verl reads."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgpo.lab.cli.main import main
from dgpo.lab.evaluation.protocols import get_protocol
from dgpo.lab.rewards import compute_score

DAPO_PROMPT = get_protocol("dapo").prompt_template
COLUMNS = ["data_source", "prompt", "ability", "reward_model", "extra_info"]


def dapo_row(index, problem, gold):
    """A row of DAPO-Math-17k: its columns, their order and their types; the problems are not its."""
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": DAPO_PROMPT.replace("{prompt}", problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"9a9b6eb4-a1cb-49d1-8c1e-62eaf2f7{index:04d}"},
    }


@pytest.fixture
def sources(tmp_path):
    """A hundred copies of three problems, one of which is in an exam, and two exams in their layouts of the hub."""
    problems = [("What is $2 + 3$?", "5"), ("Find\n  the   exam's $x$.", "70"), ("Half of $1$?", "\\frac{1}{2}")]
    rows = [dapo_row(copy, *problem) for copy in range(100) for problem in problems]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dapo.parquet")
    aime24 = {"id": 60, "problem": "Find the exam's $x$.", "solution": "\\boxed{070}", "answer": "070", "year": "2024"}
    (tmp_path / "aime24.jsonl").write_text(json.dumps(aime24) + "\n")
    aime25 = [{"problem": f"Find {i}.", "answer": str(i), "id": str(i)} for i in range(2)]
    (tmp_path / "aime25.jsonl").write_text("".join(json.dumps(row) + "\n" for row in aime25))
    return {"dapo-math-17k": "dapo.parquet", "aime24": "aime24.jsonl", "aime25": "aime25.jsonl"}


def run(tmp_path, sources, folder="out"):
    words = [word for name, file in sources.items() for word in (f"--{name}", str(tmp_path / file))]
    return main(["verl-data", str(tmp_path / folder), *words])


def test_files_in_verls_layout(tmp_path, sources, capsys) -> None:
    assert run(tmp_path, sources) == 0
    tables = {name: pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in sources}
    assert {name: table.num_rows for name, table in tables.items()} == {"dapo-math-17k": 2, "aime24": 1, "aime25": 2}
    schemas = [table.schema for table in tables.values()]
    assert schemas[0].names == COLUMNS
    assert schemas[1] == schemas[0]  # verl concatenates the files of an evaluation
    assert schemas[2] == schemas[0]
    assert "2 prompts of 300 rows; 297 repeated; 1 left out as problems of the exams" in capsys.readouterr().out


def test_prompts_and_gold_answers_are_kept(tmp_path, sources) -> None:
    run(tmp_path, sources)
    training = pq.read_table(tmp_path / "out" / "dapo-math-17k.parquet").to_pylist()
    assert [row["prompt"] for row in training] == [
        [{"role": "user", "content": DAPO_PROMPT.replace("{prompt}", problem)}]
        for problem in ("What is $2 + 3$?", "Half of $1$?")
    ]
    assert [row["reward_model"]["ground_truth"] for row in training] == ["5", "\\frac{1}{2}"]
    assert {row["data_source"] for row in training} == {"math_dapo"}
    (exam,) = pq.read_table(tmp_path / "out" / "aime24.parquet").to_pylist()
    assert exam["data_source"] == "aime24"
    assert exam["prompt"][0]["content"] == DAPO_PROMPT.replace("{prompt}", "Find the exam's $x$.")
    assert exam["extra_info"]["index"] == "60"


def test_rows_are_scored_by_the_recipes_reward(tmp_path, sources) -> None:
    """The recipes score the last 300 characters: `Answer:`, then a box."""
    run(tmp_path, sources)
    row = pq.read_table(tmp_path / "out" / "dapo-math-17k.parquet").to_pylist()[1]
    gold = row["reward_model"]["ground_truth"]
    for text, score in (("so\nAnswer: 0.5", 1.0), ("\\boxed{1/2}", 1.0), ("Answer: $2$", 0.0), ("0.5", 0.0)):
        assert compute_score(row["data_source"], text, gold, row["extra_info"], answer_format="dapo")["score"] == score


def test_a_plain_table_is_put_into_dapos_template(tmp_path, sources, capsys) -> None:
    (tmp_path / "plain.csv").write_text("problem,answer\n1 + 1,2\n")
    assert run(tmp_path, sources | {"dapo-math-17k": "plain.csv"}) == 0
    (row,) = pq.read_table(tmp_path / "out" / "dapo-math-17k.parquet").to_pylist()
    assert row["prompt"] == [{"role": "user", "content": DAPO_PROMPT.replace("{prompt}", "1 + 1")}]
    assert "1 put into the template of DAPO" in capsys.readouterr().out


def test_nothing_is_written_when_a_source_is_missing(tmp_path, sources, capsys) -> None:
    assert run(tmp_path, sources | {"aime25": "aime26.jsonl"}) == 2
    assert "aime26.jsonl does not exist. Did you mean 'aime25.jsonl'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--aime24", "x.jsonl"], "needs the folder"),
        (["out", "--aime23", "x.jsonl"], "no option '--aime23'. Did you mean"),
        (["out", "--aime24"], "--aime24 needs a file"),
        (["out", "more"], "takes one folder"),
    ],
)
def test_words_that_cannot_be_understood(words, message, capsys) -> None:
    assert main(["verl-data", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def own(tmp_path):
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(30)]
    for name, part in {"mine.jsonl": rows, "later.jsonl": rows[:3]}.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    return str(tmp_path / "mine.jsonl"), str(tmp_path / "later.jsonl")


def test_data_of_ones_own_are_split_and_asked_for_an_answer_line(own, tmp_path, capsys) -> None:
    assert main(["verl-data", str(tmp_path / "out"), "--train", own[0]]) == 0
    train, val = (pq.read_table(tmp_path / "out" / f"{split}.parquet") for split in ("train", "val"))
    assert (train.num_rows, val.num_rows) == (27, 3)
    assert train.schema == val.schema
    row = train.to_pylist()[0]
    assert row["data_source"] == "mine"
    text, gold = row["prompt"][0]["content"], row["reward_model"]["ground_truth"]
    assert text == DAPO_PROMPT.replace("{prompt}", f"What is {int(gold) - 1} + 1?")
    assert compute_score("mine", f"Answer: {gold}", gold, answer_format="dapo")["score"] == 1.0
    assert "train.parquet: 27 prompts" in capsys.readouterr().out


def test_held_out_prompts_of_ones_own_are_not_trained_on(own, tmp_path) -> None:
    assert main(["verl-data", str(tmp_path / "out"), "--train", own[0], "--val", own[1], "--plain"]) == 0
    train, val = (pq.read_table(tmp_path / "out" / f"{split}.parquet").to_pylist() for split in ("train", "val"))
    asked = [row["prompt"] for row in val]
    assert asked == [[{"role": "user", "content": f"What is {i} + 1?"}] for i in range(3)]
    assert len(train) == 27
    assert [row for row in train if row["prompt"] in asked] == []
    assert val[0]["data_source"] == "later"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plain"], "--val and --plain belong to --train FILE"),
        (["--train", "a.jsonl", "--aime24", "b.jsonl"], "in place of --aime24; write one or the other"),
        (["--train", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_own_data_that_cannot_work_are_refused(words, message, tmp_path, capsys) -> None:
    assert main(["verl-data", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
