"""What is shown as a hint, and how it is put together with a prompt; the same for every engine."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo.credit_log.answers import gold_answer
from dgpo.engines.hints import best_sibling, hint_text, hinted_prompt, other_hints


def test_a_completion_without_a_reward_is_shown_to_nobody_and_the_best_one_to_all_others():
    rewards, same = torch.tensor([1.0, torch.nan, 2.0, 0.0]), torch.zeros(4, dtype=torch.long)
    assert best_sibling(rewards, same, same + 3, least=1.0) == [2, 2, 0, 2]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "", None]), st.integers(0, 3)), max_size=12))
def test_a_hint_is_compared_with_the_next_one_of_another_prompt_that_says_something_else(rows):
    def expected(place):
        mine, prompt = rows[place]
        following = [*rows[place + 1 :], *rows[:place]]
        return next((hint for hint, other in following if mine and hint and hint != mine and other != prompt), None)

    hints, groups = zip(*rows, strict=True) if rows else ((), ())
    assert other_hints(hints, groups) == [expected(place) for place in range(len(rows))]


def test_braces_of_hints_and_prompts_stand_for_themselves():
    assert hinted_prompt("{hint} 1", "{prompt} 2", "a {hint} b {prompt} c") == "a {prompt} 2 b {hint} 1 c"
    blocks = [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": "y"}]
    told = hinted_prompt(blocks, "h", "{hint}:{prompt}")
    assert told[0]["content"] == [{"type": "text", "text": "h:x"}]
    assert told[1] == blocks[1]
    assert blocks[0]["content"][0]["text"] == "x"
    # Worked examples that show hints themselves: the hint is a whole prompt.
    assert hinted_prompt("1 = 1, 2 =", "1 (1) = 1, 2 (2) =", "{hint}") == "1 (1) = 1, 2 (2) ="
    assert hinted_prompt("{hint} {prompt}", "h", "{hint} {prompt} {hint}") == "h {hint} {prompt} h"


def test_several_answers_are_one_hint_whatever_holds_them():
    for held in (["1/2", "0.5"], ("1/2", None, "0.5"), np.array(["1/2", "0.5"], dtype=object)):
        assert hint_text(held) == "1/2 or 0.5"
    assert [hint_text(held) for held in (np.int64(7), torch.tensor([7, 8]), "7")] == ["7", "7 or 8", "7"]
    assert {hint_text(held) for held in ([], [None], [math.nan], math.nan, np.float64("nan"), "", None)} == {None}
    assert gold_answer({"answer": np.array([1, 2])}) == "[1, 2]"
    assert gold_answer({"answer": [np.int64(3)]}) == "[3]"
