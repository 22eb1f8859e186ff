"""The guard around a reward function: results checked, the culprit named, the batch kept."""

import asyncio
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dgpo.errors import RewardError
from dgpo.lab.rewards import checked, last_number_reward


def call(fn, completions, **columns):
    return fn(
        prompts=[f"p{i}" for i in range(len(completions))],
        completions=completions,
        completion_ids=[[i] for i in range(len(completions))],
        **columns,
    )


def constant(value):
    def fn(completions, **columns):
        return value

    return fn


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1.0, 0.0], [1.0, 0.0]),
        ([1, True], [1.0, 1.0]),
        ((0.5, None), [0.5, None]),
        ([None, None], [None, None]),
        (np.array([0.5, 1.0]), [0.5, 1.0]),
        ([np.float32(0.5), np.int64(2)], [0.5, 2.0]),
        (torch.tensor([0.5, 1.0]), [0.5, 1.0]),
        ([torch.tensor(0.5), 1.0], [0.5, 1.0]),
    ],
)
def test_good_results_pass_as_floats(value, expected) -> None:
    rewards = call(checked(constant(value)), ["a", "b"])
    assert rewards == expected
    assert all(reward is None or type(reward) is float for reward in rewards)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, float("nan")], "on completion 1: it returned nan"),
        ([float("inf"), 1.0], "on completion 0: it returned inf"),
        ([1.0, "1"], "on completion 1: it returned '1'"),
        ([1.0, [1.0]], r"on completion 1: it returned \[1.0\]"),
        (np.array([1.0, np.nan]), "on completion 1: it returned nan"),
        ("11", "it returned str, not a list"),
        (1.0, "it returned float, not a list"),
        (None, "it returned NoneType, not a list"),
        ([1.0], "on a batch of 2, .* it returned 1 rewards for 2 completions"),
        ([1.0, 1.0, 1.0], "it returned 3 rewards"),
    ],
)
def test_bad_results_are_refused(value, message) -> None:
    with pytest.raises(RewardError, match=message):
        call(checked(constant(value)), ["a", "b"])


def picky(completions, answer, **columns):
    return [1.0 / (len(text) - gold) for text, gold in zip(completions, answer, strict=True)]


def test_the_first_culprit_is_named_with_its_own_columns_and_cause() -> None:
    with pytest.raises(RewardError) as caught:
        call(checked(picky), ["aa", "bbb", "cc"], answer=[1, 3, 2])  # 3 - 3 = 0 at 1, 2 - 2 = 0 at 2
    message = str(caught.value)
    assert "'picky' failed on completion 1: ZeroDivisionError" in message
    assert "The completion is 'bbb'" in message
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_wrong_length_is_traced_to_the_completion_that_is_skipped() -> None:
    def skips_blanks(completions, **columns):
        return [1.0 for text in completions if text]

    with pytest.raises(RewardError, match="on completion 2: it returned 0 rewards for 1 completions"):
        call(checked(skips_blanks), ["a", "b", ""])


def test_a_failure_of_the_batch_alone_is_said_to_be_one() -> None:
    def needs_small_batches(completions, **columns):
        if len(completions) > 1:
            raise MemoryError("too many")
        return [1.0]

    with pytest.raises(RewardError, match="on a batch of 2, though it scores each completion alone: MemoryError"):
        call(checked(needs_small_batches), ["a", "b"])


def test_a_function_that_normalises_over_the_batch_is_not_blamed_for_nan_alone() -> None:
    def standardised(completions, **columns):
        lengths = np.array([len(text) for text in completions], dtype=float)
        return ((lengths - lengths.mean()) / lengths.std(ddof=1))[:-1] if len(lengths) > 1 else [float("nan")]

    with pytest.raises(RewardError, match=r"on a batch of 3.* it returned 2 rewards for 3"):
        call(checked(standardised), ["a", "bb", "ccc"])


def test_the_batch_is_saved_and_named(tmp_path: Path) -> None:
    chat = [{"role": "assistant", "content": "é" * 500}]
    with pytest.raises(RewardError) as caught:
        call(checked(constant([1.0, float("nan")]), dump_dir=tmp_path / "run"), ["a", chat], answer=["x", "y"])
    path = tmp_path / "run" / "failed_rewards.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["prompts"] for row in rows] == ["p0", "p1"]
    assert [row["completions"] for row in rows] == ["a", chat]
    assert [row["answer"] for row in rows] == ["x", "y"]
    assert rows[0]["error"] is None
    assert "nan" in rows[1]["error"]
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 700  # an excerpt, not the whole completion
    assert "é" * 100 in message


def test_a_dump_that_cannot_be_written_does_not_hide_the_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RewardError, match=r"completion 0: it returned nan.*could not be saved"):
        call(checked(constant([float("nan")]), dump_dir=tmp_path / "file"), ["a"])


def test_what_is_not_a_column_is_passed_on_and_the_log_is_left_alone_while_searching() -> None:
    logged, seen = [], []

    def logs(completions, log_metric, log_extra, trainer_state, word, **columns):
        log_metric("n", len(completions))
        log_extra("x", completions)
        seen.append((trainer_state, word))
        return [1 / len(text) for text in completions]

    state = object()
    with pytest.raises(RewardError, match="completion 1"):
        # "ab" has as many letters as there are completions: a text is never a column.
        call(
            checked(logs),
            ["a", ""],
            log_metric=lambda *a: logged.append(a),
            log_extra=lambda *a: logged.append(a),
            trainer_state=state,
            word="ab",
        )
    assert logged == [("n", 2), ("x", ["a", ""])]  # the call that failed, not the search
    assert seen == [(state, "ab")] * 3


def test_the_name_is_kept() -> None:
    class Scorer:
        def __call__(self, completions, **columns):
            return [0.0] * len(completions)

    assert checked(picky).__name__ == "picky"
    assert checked(functools.partial(picky, answer=[0])).__name__ == "picky"
    assert checked(Scorer()).__name__ == "Scorer"
    assert checked(last_number_reward).__doc__ == last_number_reward.__doc__


def test_the_result_of_an_asynchronous_function_is_checked_too() -> None:
    async def slow(completions, **columns):
        return [float(text) for text in completions]

    assert asyncio.run(checked(slow)(completions=["1"])) == [1.0]
    assert asyncio.iscoroutinefunction(checked(slow))
    with pytest.raises(RewardError, match=r"'slow' failed on completion 1: it returned inf.* The completion is 'inf'"):
        asyncio.run(checked(slow)(completions=["1", "inf"]))


def test_a_function_gets_the_arguments_that_it_names() -> None:
    def short(completions, answer):
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    assert call(checked(short), ["a", "b"], answer=["a", "a"], other=[1, 2]) == [1.0, 0.0]
    with pytest.raises(RewardError, match=r"required positional argument: 'answer' \(it can get: .*prompts"):
        call(checked(short), ["a"])


def test_chat_completions_taken_for_texts_are_explained() -> None:
    def strips(completions, **columns):
        return [float(len(text.strip())) for text in completions]

    with pytest.raises(RewardError, match=r"are lists of messages; dgpo\.lab\.rewards\.completion_text"):
        call(checked(strips), [[{"role": "assistant", "content": "x"}]])


def test_what_is_checked_is_not_checked_again() -> None:
    once = checked(picky)
    assert checked(once) is once


def test_an_interrupt_is_not_a_failed_reward() -> None:
    def interrupted(completions, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(checked(interrupted), ["a"])
