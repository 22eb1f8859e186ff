"""reasoning-gym's data sets as tasks: their own scorers, disjoint splits, refused options."""

import decimal
import inspect
import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.errors import ConfigError, DataError
from dgpo.lab.rewards import exact_match_reward, last_number_reward
from dgpo.lab.tasks import load_task
from dgpo.lab.tasks import reasoning_gym as gym
from dgpo.lab.tasks.entries import dump_entry, load_entry
from dgpo.lab.tasks.gym_scoring import CODE_RUNNING_SCORERS, extract_answer, scorer_reward
from dgpo.lab.tasks.reasoning_gym import SYSTEM_PROMPT, dataset_names

ONE_DIGIT_SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def load(name: str = "chain_sum", **options):
    return load_task(f"reasoning_gym:{name}", **options)


def score(task, completions, rows=None):
    rows = task.train_dataset[: len(completions)] if rows is None else rows
    return task.reward_funcs[0](
        prompts=rows["prompt"],
        completions=completions,
        completion_ids=[[0]],
        answer=rows["answer"],
        entry=rows["entry"],
    )


def test_chain_sum() -> None:
    task = load(size=20, eval_size=5, **ONE_DIGIT_SUMS)
    assert task.name == "reasoning_gym:chain_sum"
    assert (task.train_dataset.num_rows, task.eval_dataset.num_rows) == (20, 5)
    row = task.train_dataset[0]
    assert row.keys() == {"prompt", "answer", "entry"}
    assert row["prompt"][0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert row["prompt"][1]["role"] == "user"
    first, sign, second = re.search(r"(\d) ([+-]) (\d) =", row["prompt"][1]["content"]).groups()
    assert int(row["answer"]) == int(first) + int(sign + second)
    assert "chain_sum" in task.description


@pytest.mark.parametrize("extraction", ["whole", "last_number", "tag"])
def test_the_part_that_is_asked_for_is_scored_by_the_data_sets_scorer(extraction) -> None:
    task = load(size=4, eval_size=2, answer_extraction=extraction, **ONE_DIGIT_SUMS)
    a, b, c, d = task.train_dataset["answer"][:]
    completions = [a, f"it is {b}.", f"<answer>{c}</answer>", [{"role": "assistant", "content": f"{d}.0"}]]
    rewards = score(task, completions)
    expected = {
        # reasoning-gym gives an answer inside more text its share of the length
        "whole": [1.0, len(b) / len(f"it is {b}."), len(c) / len(f"<answer>{c}</answer>"), 1.0],
        "last_number": [1.0, 1.0, 1.0, 1.0],
        "tag": [0.0, 0.0, 1.0, 0.0],
    }
    assert rewards == pytest.approx(expected[extraction])
    assert task.reward_funcs[0].__name__ == "chain_sum"


@pytest.mark.parametrize(
    ("text", "how", "answer"),
    [
        (" 7\n", "whole", "7"),
        ("", "whole", ""),
        ("3 + 4 = 7.", "last_number", "7"),
        ("1,234.50", "last_number", "1234.50"),
        ("-7", "last_number", "-7"),
        ("none", "last_number", None),
        ("<answer>a</answer> no, <ANSWER>\nb </ANSWER>", "tag", "b"),
        ("<answer>open", "tag", None),
    ],
)
def test_extract_answer(text, how, answer) -> None:
    assert extract_answer(text, how) == answer


def questions(dataset):
    return [prompt[-1]["content"] for prompt in dataset["prompt"]]


def test_held_out_questions_are_different_and_no_training_question() -> None:
    # 200 questions in all, 64 of them held out: drawn 1000 times, nearly all others are seen, and none of the 64.
    task = load(size=1000, eval_size=64, **ONE_DIGIT_SUMS)
    train, held_out = set(questions(task.train_dataset)), questions(task.eval_dataset)
    assert task.train_dataset.num_rows == 1000
    assert len(held_out) == len(set(held_out)) == 64
    assert not train & set(held_out)
    assert 120 < len(train) <= 136
    assert task.metadata["questions"] == len(train)


def test_the_default_leaves_most_questions_for_training() -> None:
    task = load(size=1000, **ONE_DIGIT_SUMS)
    assert 40 <= task.eval_dataset.num_rows <= 50  # a quarter of at most 200 questions
    assert load(size=1000).eval_dataset.num_rows == 128


def test_no_question_left_for_training_is_said() -> None:
    with pytest.raises(DataError, match=r"all questions are among the 200 held-out ones.*Lower eval_size"):
        load(size=5, eval_size=500, **ONE_DIGIT_SUMS)


def test_neighbouring_seeds_share_no_run_of_entries() -> None:
    # reasoning-gym draws entry i from seed + i: its own seeds 0 and 1 have all entries but one in common.
    long = {"min_terms": 6, "max_terms": 6, "min_digits": 4, "max_digits": 4}
    first, again, second = (load(seed=seed, size=50, eval_size=20, **long) for seed in (0, 0, 1))
    assert questions(first.train_dataset) == questions(again.train_dataset)
    sets = [set(questions(part)) for task in (first, second) for part in (task.train_dataset, task.eval_dataset)]
    assert len(set.union(*sets)) == 50 + 20 + 50 + 20


@pytest.mark.parametrize("name", ["decimal_arithmetic", "pool_matrix"])
def test_global_state_is_left_alone(name) -> None:
    precision = decimal.getcontext().prec
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    load(name, size=3, eval_size=1)
    assert decimal.getcontext().prec == precision
    assert np.random.rand() == expected


def test_no_held_out_rows_and_no_system_prompt() -> None:
    task = load(size=2, eval_size=0, system_prompt=None)
    assert task.eval_dataset is None
    assert [message["role"] for message in task.train_dataset[0]["prompt"]] == ["user"]
    assert load(size=2, eval_size=0, system_prompt="Think.").train_dataset[0]["prompt"][0]["content"] == "Think."


def test_rewards_of_the_registry_can_be_named() -> None:
    task = load(size=4, eval_size=2, rewards=["last_number", "task"])
    assert task.reward_funcs[0] is last_number_reward
    assert task.reward_funcs[1].__name__ == "chain_sum"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chian_sum", {}, r"no data set 'chian_sum'\. Did you mean 'chain_sum'"),
        ("zzzzzz", {}, "no data set 'zzzzzz'"),
        ("chain_sum", {"min_term": 2}, r"no option 'min_term'\. Did you mean 'min_terms'.*max_digits, max_terms"),
        ("chain_sum", {"min_terms": 0}, r"refuses min_terms=0: min_terms must be positive.*Its options are"),
        ("chain_sum", {"min_terms": "two"}, r"refuses min_terms='two'"),
        ("chain_sum", {"answer_extraction": "first"}, "must be one of whole, last_number, tag"),
        ("chain_sum", {"size": 0}, "size is 0"),
        ("chain_sum", {"size": "many"}, "size is 'many'"),
        ("chain_sum", {"size": 60_000}, "at most 50000"),
        ("chain_sum", {"eval_size": -1}, "eval_size is -1"),
        ("chain_sum", {"seed": -1}, "seed is -1"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name, **options)


# --- scorers that run what the model wrote


def test_a_scorer_that_runs_completions_as_code_needs_consent() -> None:
    with pytest.raises(ConfigError, match=r"countdown: its scorer runs.*allow_code_execution: true"):
        load("countdown", size=2)
    assert load("countdown", size=2, eval_size=1, allow_code_execution=True).train_dataset.num_rows == 2


def test_a_scorer_that_is_not_used_needs_no_consent() -> None:
    task = load("spiral_matrix", size=2, eval_size=1, rewards=["exact_match"])
    assert task.reward_funcs == (exact_match_reward,)
    with pytest.raises(ConfigError, match="allow_code_execution"):
        load("spiral_matrix", size=2, eval_size=1, rewards=["exact_match", "task"])


def test_a_scorer_that_accepts_anything_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"game_of_life_halting: its scorer gives full marks to any answer.*exact_match"
    ):
        load("game_of_life_halting", size=4, eval_size=1)
    assert load("game_of_life_halting", size=4, eval_size=1, rewards=["exact_match"]).train_dataset.num_rows == 4


def test_every_scorer_that_runs_completions_is_known() -> None:
    """Read from the installed version: a scorer that newly evaluates its answer fails here."""
    runs = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?:[^)]*\b)?answer\b")
    found = set()
    for name, (dataset_class, _) in gym._datasets().items():
        source = inspect.getsource(dataset_class.score_answer).replace('entry["answer"]', "gold")
        if runs.search(source):
            found.add(name)
    assert found | {"composite"} == CODE_RUNNING_SCORERS


# --- entries survive the column


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(max_size=9) | st.just("__tuple__"), inner, max_size=3)
            | st.dictionaries(st.integers() | st.tuples(st.integers(), st.integers()), inner, max_size=3)
            | st.sets(st.integers(), max_size=1)  # a larger one has no order to compare
        ),
        max_leaves=12,
    )
)
def test_entries_come_back_equal_and_of_the_same_types(entry) -> None:
    text = dump_entry(entry)
    json.loads(text)
    back = load_entry(text)
    assert back == entry
    assert repr(back) == repr(entry)  # tuples no lists, 1 no 1.0, True no 1


def test_what_json_cannot_hold_is_refused_rather_than_changed() -> None:
    with pytest.raises(TypeError, match="object"):
        dump_entry({"x": object()})


@pytest.mark.parametrize("name", ["rearc", "power_function", "basic_arithmetic", "graph_color"])
def test_right_answers_score_full_marks_after_the_column(name) -> None:
    """`rearc` tells lists from tuples, `power_function` has no validation, `graph_color` has no single answer."""
    task = load(name, size=2, eval_size=1)
    answers = task.train_dataset["answer"][:]
    if name == "graph_color":
        assert answers == [None, None]
        assert score(task, ["no colours", "none"]) == [0.0, 0.0]
    else:
        assert score(task, answers) == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "composite"])
def test_every_data_set_works(name) -> None:
    if name == "game_of_life_halting":
        pytest.skip("refused: its scorer accepts any answer")
    task = load(name, size=2, eval_size=1, allow_code_execution=True)
    answers = task.train_dataset["answer"][:]
    if None not in answers:
        assert score(task, answers) == [1.0, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(0 <= reward < 0.5 for reward in score(task, ["gibberish ((", ""]))


class Scorer:
    """A data set whose scorer reads integers only."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def score_answer(self, answer, entry):
        if self.broken:
            raise RuntimeError("always")
        return float(int(answer) == int(entry["answer"]))


def test_an_answer_that_the_scorer_cannot_read_is_wrong_and_said_once() -> None:
    reward = scorer_reward("digits", Scorer(), "whole")
    entries = [dump_entry({"answer": "7"})] * 3
    with pytest.warns(UserWarning, match="digits: its scorer raised ValueError") as caught:
        rewards = [reward(completions=texts, entry=entries) for texts in (["seven", "7", "VII"], ["x", "8", "7"])]
    assert rewards == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert len(caught) == 1


def test_a_scorer_that_cannot_read_the_right_answer_either_is_an_error() -> None:
    reward = scorer_reward("digits", Scorer(broken=True), "whole")
    with pytest.raises(RuntimeError, match="always"):
        reward(completions=["7"], entry=[dump_entry({"answer": "7"})])
