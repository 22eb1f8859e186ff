"""Files and hub data sets as tasks: the layouts that are recognised, and what is refused before anything is spent."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards import exact_match_reward, last_number_reward
from dgpo.lab.tasks import load_task
from dgpo.lab.tasks.layouts import as_gold

SUMS = [{"problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(20)]


def write(path: Path, rows: list[dict]) -> str:
    """The rows in the format of the file's ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def dapo(index: int, prompt: str, gold: str) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": prompt, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": str(index)},
    }


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_task(tmp_path, ending) -> None:
    rows = [*SUMS[:-1], {"problem": "ünïcode, and a\nline?", "answer": "20"}]
    task = load_task(write(tmp_path / f"sums{ending}", rows), eval_size=0)
    assert task.train_dataset["prompt"][:] == [row["problem"] for row in rows]
    assert task.train_dataset["answer"][:] == [row["answer"] for row in rows]
    assert task.train_dataset.column_names == ["prompt", "answer"]
    assert task.reward_funcs == (last_number_reward,)
    assert task.eval_dataset is None


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"problem": "p", "answer": "1"}, "p", "1"),
        ({"question": "p", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}, "p", "42"),  # GSM8K
        ({"question": "p", "answer": "#### 1,234"}, "p", "1234"),
        ({"prompt": "p", "answer": 7}, "p", "7"),
        ({"prompt": "p", "solution": "so $\\boxed{\\frac{1}{2}}$."}, "p", "\\frac{1}{2}"),
        ({"Problem": "p", "Solution": "long", "Answer": 33}, "p", "33"),  # AIME: the answer, not the solution
        ({"problem": "p", "final_answer": ["2"], "solution": "long"}, "p", "2"),
        ({"id": 3, "question": "p", "ground_truth": "yes"}, "p", "yes"),
        (dapo(0, "p", "34"), [{"role": "user", "content": "p"}], "34"),
        ({"prompt": "p", "solution": "x", "reward_model": {"ground_truth": "34"}}, "p", "34"),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}], "answer": "1"}, ..., "1"),
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_layouts_that_are_recognised(tmp_path, ending, row, prompt, answer) -> None:
    task = load_task(write(tmp_path / f"data{ending}", [row]), eval_size=0)
    assert task.train_dataset[:] == {"prompt": [row["prompt"] if prompt is ... else prompt], "answer": [answer]}


def test_columns_can_be_named(tmp_path) -> None:
    path = write(tmp_path / "x.jsonl", [{"q": {"text": "p"}, "gold.key": "1", "problem": "no", "answer": "no"}])
    task = load_task(path, eval_size=0, prompt_column="q.text", answer_column="gold.key")
    assert task.train_dataset[0] == {"prompt": "p", "answer": "1"}


def test_dapo_is_deduplicated_on_the_text_of_the_prompt_and_says_so(tmp_path) -> None:
    rows = [dapo(i, f"problem {i % 5}", str(i % 5)) for i in range(500)] + [dapo(500, "problem 0", "99")]
    task = load_task(write(tmp_path / "dapo.parquet", rows), eval_size=1)
    assert (task.train_dataset.num_rows, task.eval_dataset.num_rows) == (4, 1)
    # 501 rows, 5 problems: 496 repeated, the last one with another answer than the first time.
    assert "496 repeated, 1 of them with another gold answer" in task.description
    assert (task.metadata["rows_read"], task.metadata["duplicates"], task.metadata["contradictions"]) == (501, 496, 1)
    rows = [row for part in (task.train_dataset, task.eval_dataset) for row in part]
    golds = {row["prompt"][0]["content"]: row["answer"] for row in rows}
    assert golds == {f"problem {i}": str(i) for i in range(5)}


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path) -> None:
    rows = [*SUMS, {"problem": "p"}, {"problem": "q", "answer": " "}, {"problem": "", "answer": "1"}, {"answer": "1"}]
    task = load_task(write(tmp_path / "x.jsonl", rows), eval_size=0)
    assert task.train_dataset.num_rows == 20
    assert "left out: 2 without a prompt, 2 without a gold answer" in task.description


# --- rewards


def test_words_are_matched_exactly_and_numbers_as_numbers_by_default(tmp_path) -> None:
    texts = [{"problem": f"q{index}", "answer": "yes"} for index in range(len(SUMS))]
    words = load_task(write(tmp_path / "w.jsonl", [*SUMS, *texts]))
    assert words.reward_funcs == (exact_match_reward,)
    assert words.metadata["rewards"] == ("exact_match",)
    assert load_task(write(tmp_path / "n.jsonl", SUMS), rewards=["task"]).reward_funcs == (last_number_reward,)


def test_rows_that_the_reward_cannot_read_are_left_out(tmp_path) -> None:
    path = write(tmp_path / "w.jsonl", [*SUMS, {"problem": "p", "answer": "yes"}])
    task = load_task(path, rewards=["last_number"], eval_size=0)
    assert task.train_dataset.num_rows == 20
    assert "1 whose gold answer the reward cannot read" in task.description
    both = load_task(path, rewards=["last_number", "exact_match"], eval_size=0)
    assert both.train_dataset.num_rows == 21
    assert both.reward_funcs == (last_number_reward, exact_match_reward)


@pytest.mark.parametrize(
    ("rows", "rewards", "message"),
    [
        ([{"problem": "p", "answer": ""}, {"problem": "q", "answer": None}], None, "of 2 rows, 2 have no gold answer"),
        ([{"problem": "p", "answer": "yes"}], ["last_number"], "last_number can read none of the 1 gold.*'yes'"),
        ([{"problem": " ", "answer": "1"}], None, "1 no prompt in 'problem'"),
    ],
)
def test_no_rewardable_row_is_an_error(tmp_path, rows, rewards, message) -> None:
    with pytest.raises(DataError, match=rf"x.jsonl: no row can be rewarded.*{message}"):
        load_task(write(tmp_path / "x.jsonl", rows), rewards=rewards)


# --- prompts


def test_templates_and_system_prompts(tmp_path) -> None:
    text = write(tmp_path / "t.jsonl", [{"problem": "1 + {1}", "answer": "2"}])
    chat = write(
        tmp_path / "c.jsonl", [dapo(0, "p", "1") | {"prompt": [message("system", "old"), message("user", "p")]}]
    )

    def prompt(path, **options):
        return load_task(path, eval_size=0, **options).train_dataset[0]["prompt"]

    template = "Q: {prompt} {}\nA:"
    assert prompt(text) == "1 + {1}"
    assert prompt(text, prompt_template=template) == "Q: 1 + {1} {}\nA:"
    assert prompt(text, chat=True) == [message("user", "1 + {1}")]
    assert prompt(text, system_prompt="s") == [message("system", "s"), message("user", "1 + {1}")]
    assert prompt(chat) == [message("system", "old"), message("user", "p")]
    assert prompt(chat, system_prompt="s") == [message("system", "s"), message("user", "p")]
    assert prompt(chat, system_prompt="") == [message("user", "p")]
    assert prompt(chat, prompt_template="Q: {prompt}")[1] == message("user", "Q: p")
    with pytest.raises(ConfigError, match=r"must contain \{prompt\}"):
        prompt(text, prompt_template="no place")


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_a_chat_among_texts_makes_chats_of_all(tmp_path) -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": [message("user", "b")], "answer": "2"}]
    task = load_task(write(tmp_path / "x.jsonl", rows), eval_size=0)
    assert task.train_dataset["prompt"][:] == [[message("user", "a")], [message("user", "b")]]


# --- held-out rows


def prompts(dataset) -> list[str]:
    return dataset["prompt"][:]


def test_the_split_is_seeded_disjoint_and_whole(tmp_path) -> None:
    path = write(tmp_path / "x.jsonl", SUMS)
    first, again, other = (load_task(path, eval_size=6, seed=seed) for seed in (0, 0, 1))
    assert len(prompts(first.eval_dataset)) == 6
    assert prompts(first.eval_dataset) == prompts(again.eval_dataset) != prompts(other.eval_dataset)
    assert sorted(prompts(first.train_dataset) + prompts(first.eval_dataset)) == sorted(r["problem"] for r in SUMS)
    assert load_task(path).eval_dataset.num_rows == 2  # a tenth
    assert load_task(write(tmp_path / "y.jsonl", SUMS[:3])).eval_dataset is None


def test_a_file_of_held_out_rows_takes_its_prompts_out_of_training(tmp_path) -> None:
    train = write(tmp_path / "train.jsonl", SUMS)
    held_out = write(tmp_path / "test.csv", [*SUMS[15:], {"problem": "new", "answer": "1"}])
    task = load_task(train, eval_file=held_out)
    assert prompts(task.train_dataset) == [row["problem"] for row in SUMS[:15]]
    assert prompts(task.eval_dataset) == [row["problem"] for row in SUMS[15:]] + ["new"]
    assert "5 more that are held out" in task.description
    assert load_task(train, eval_file=held_out, eval_size=2).eval_dataset.num_rows == 2
    with pytest.raises(DataError, match="every prompt is held out"):
        load_task(train, eval_file=train)


@pytest.mark.parametrize(("size", "error"), [(20, DataError), (99, DataError), (-1, ConfigError), ("x", ConfigError)])
def test_an_eval_size_that_leaves_nothing_is_refused(tmp_path, size, error) -> None:
    with pytest.raises(error, match=f"eval_size is {size!r}"):
        load_task(write(tmp_path / "x.jsonl", SUMS), eval_size=size)


# --- bad input

GOOD = '{"problem": "p", "answer": "1"}\n'


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.jsonl", "", "x.jsonl is empty"),
        ("x.jsonl", "\n \n", "holds no row"),
        ("x.json", "[]", "holds no row"),
        ("x.csv", "problem,answer\n", "holds no row"),
        ("x.jsonl", GOOD + '{"problem": \n', "x.jsonl, line 2: not JSON"),
        ("x.jsonl", GOOD + "\n[1]\n", "line 3: a JSON list; each line must be one JSON object"),
        ("x.json", '[{"problem": "p"},\n {"answer": }]', "x.json, line 2: not JSON"),
        ("x.json", '[{"problem": "p"}, 3]', "element 1 of the list: a JSON int"),
        ("x.jsonl", "[" * 100_000, "line 1: not JSON"),  # too deep for the parser
        ("x.csv", "problem,answer\np,1\nq,1,2\n", "line 3: more values than the first line has columns"),
        ("x.csv", 'problem,answer\n"p,1\n', "not CSV"),
        ("x.parquet", "not parquet", "is not a parquet file"),
        ("x.txt", "p 1", "cannot read files of this kind; these can be read: .jsonl, .json, .csv, .parquet"),
        ("x.jsonl", b'{"problem": "\xff"}', "not UTF-8 text"),
        (
            "x.jsonl",
            '{"text": "p", "label": "1"}',
            "no prompt column and no answer column.*it has: text, label.*problem",
        ),
        ("x.jsonl", '{"problem": "p", "label": "1"}', "has no answer column.*Expected one of.*solution"),
        ("x.jsonl", '{"problem": 3, "answer": "1"}', "row 0: the prompt is a int; it must be a text or a list"),
        ("x.jsonl", '{"prompt": [{"role": "user"}], "answer": "1"}', "a list of messages with role and content"),
        (
            "x.jsonl",
            '{"prompt": [{"role": "assistant", "content": "7"}], "answer": "1"}',
            "the last message of the prompt is the assistant's",
        ),
        ("x.jsonl", '{"problem": "p", "answer": {"value": 1}}', "gold answer is a dict.*named with a dot"),
        ("x.jsonl", '{"prompt": "p", "reward_model": "34"}', "leads into a str, which has no 'ground_truth'"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, file, content, message) -> None:
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_task(str(path))


def test_a_missing_file_is_refused_with_the_nearest_in_its_folder(tmp_path, monkeypatch) -> None:
    write(tmp_path / "train.jsonl", SUMS)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", SUMS)
    monkeypatch.chdir(tmp_path)
    for name in ("trian.jsonl", "./trian.jsonl", "data/trian.jsonl", "data/train.txt"):
        with pytest.raises(DataError, match=r"does not exist\. Did you mean 'train.jsonl'"):
            load_task(name)
    with pytest.raises(DataError, match="nor does its folder"):
        load_task("elsewhere/train.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        load_task("./data")
    with pytest.raises(DataError, match="does not exist"):
        load_task("train.jsonl", eval_file="test.jsonl")


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "x.jsonl", SUMS)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"x.jsonl cannot be read: Permission denied"):
        load_task(path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompt_column": "problme"}, DataError, r"no column 'problme' \(prompt_column\)\. Did you mean 'problem'"),
        ({"answer_column": "gold"}, DataError, "It has: problem, answer"),
        ({"prompt_colum": "x"}, ConfigError, r"no option 'prompt_colum'\. Did you mean 'prompt_column'"),
        ({"split": "train"}, ConfigError, "no option 'split'"),  # a file has none
        ({"trust_remote_code": True}, ConfigError, "no option 'trust_remote_code'"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, error, message) -> None:
    with pytest.raises(error, match=message):
        load_task(write(tmp_path / "x.jsonl", SUMS), **options)


def test_json_lines_in_a_json_file_and_a_byte_order_mark_are_read(tmp_path) -> None:
    (tmp_path / "x.json").write_text("\ufeff" + GOOD + '{"problem": "q", "answer": "2"}\n', encoding="utf-8")
    assert load_task(str(tmp_path / "x.json"), eval_size=0).train_dataset.num_rows == 2


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("so \\boxed 7", "7"),
        ("so \\fbox{7}", "7"),
        ("\\boxed {7}", "7"),
        ("\\boxed{\\left\\{1,2\\right.}", "\\left\\{1,2\\right."),
        ("\\boxed{1} or \\boxed{}", "\\boxed{1} or \\boxed{}"),
    ],
)
def test_a_gold_answer_is_unboxed_as_a_completion_is(text, gold):
    assert as_gold(text, "row 0") == gold


@given(st.text(alphabet="ab{}\\boxed", max_size=30))
def test_braces_of_any_balance_are_survived(text) -> None:
    assert as_gold("\\boxed{" + text, "row 0")  # never empty: what is not balanced stays as it is


@given(st.recursive(st.text(alphabet="ab", min_size=1), lambda inner: inner.map("\\frac{{{0}}}{{{0}}}".format)))
def test_balanced_braces_are_unboxed(answer) -> None:
    assert as_gold(f"\\boxed{{1}}, no: $\\boxed{{{answer}}}$.", "row 0") == answer


# --- data sets of the hub


@pytest.fixture
def hub(monkeypatch):
    """Calls of `datasets.load_dataset`, answered from memory."""
    import datasets

    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        rows = SUMS[:15] if kwargs["split"] == "train" else SUMS[10:]
        return datasets.Dataset.from_list([{**row, "extra": i} for i, row in enumerate(rows)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_hub_data_set_is_loaded_without_running_its_code(hub) -> None:
    task = load_task("owner/name", eval_size=3)
    assert (task.train_dataset.num_rows, task.eval_dataset.num_rows) == (12, 3)
    assert hub == [(("owner/name", None), {"split": "train"})]


def test_configuration_and_splits_of_a_hub_data_set(hub) -> None:
    task = load_task("owner/na-me.2:main", split="train", eval_split="test")
    assert prompts(task.eval_dataset) == [row["problem"] for row in SUMS[10:]]
    assert prompts(task.train_dataset) == [row["problem"] for row in SUMS[:10]]
    assert [args for args, _ in hub] == [("owner/na-me.2", "main")] * 2
    with pytest.raises(ConfigError, match="eval_split or eval_file, not both"):
        load_task("owner/name", eval_split="test", eval_file="x.jsonl")
    with pytest.raises(ConfigError, match="no option 'trust_remote_code'"):
        load_task("owner/name", trust_remote_code=True)


def test_a_hub_out_of_reach_is_said_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"data set 'owner/name': the hub is out of reach.*path/to/file.parquet"):
        load_task("owner/name")


def test_a_split_that_does_not_exist_is_said(monkeypatch) -> None:
    import datasets

    def refuse(*args, **kwargs):
        raise ValueError('Unknown split "tst". Should be one of ["train", "test"].')

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"'owner/name', configuration None, split 'tst': Unknown split.*train"):
        load_task("owner/name", split="tst")


def test_an_empty_split_is_said(monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.Dataset.from_dict({"problem": []}))
    with pytest.raises(DataError, match=r"'owner/name' is empty: its split 'train' holds no row"):
        load_task("owner/name")


def test_one_odd_row_does_not_change_the_scorer_and_is_listed(tmp_path) -> None:
    odd = [{"problem": "odd", "answer": "NaN"}, {"problem": "large", "answer": "many"}]
    task = load_task(write(tmp_path / "x.jsonl", [*SUMS, *odd]), eval_size=0)
    assert task.reward_funcs == (last_number_reward,)
    assert task.train_dataset.num_rows == len(SUMS)
    assert "2 whose gold answer the reward cannot read (such as 'NaN', 'many')" in task.notes[0]


def test_a_list_of_acceptable_answers_is_a_gold_answer(tmp_path) -> None:
    rows = [{"problem": "p", "answer": ["New York", "NYC"]}, {"problem": "q", "answer": "Paris"}]
    task = load_task(write(tmp_path / "x.jsonl", rows), eval_size=0, rewards=["text_match"])
    assert task.train_dataset["answer"][:] == [["New York", "NYC"], ["Paris"]]
    (reward,) = task.reward_funcs
    assert reward(completions=["nyc.", "paris", "LA"], answer=[["New York", "NYC"], ["Paris"], ["NYC"]]) == [1, 1, 0]


@pytest.mark.parametrize("chat", ["no", 5, "false"])
def test_a_word_is_no_value_of_chat(tmp_path, chat) -> None:
    with pytest.raises(ConfigError, match=r"it must be true or false"):
        load_task(write(tmp_path / "x.jsonl", SUMS), chat=chat)
