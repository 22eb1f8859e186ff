"""Rewards that look at the form and the length of a completion."""

import pickle

import pytest

from dgpo.errors import RewardError
from dgpo.lab.rewards import SoftOverlong, get_reward, think_answer_format_reward, think_format_reward

# (completion, thoughts and text, thoughts and answer tag)
FORMS = [
    ("<think>a</think>b", 1, 0),
    ("<think>a</think><answer>b</answer>", 1, 1),
    (" <think>\na\n</think>\n\n<answer>\nb\n</answer>\n", 1, 1),
    ("a</think><answer>b</answer>", 1, 1),  # the prompt has opened the thoughts
    ("<think>a</think>", 0, 0),
    ("<think></think>b", 0, 0),
    ("<think>a</think><answer></answer>", 1, 0),
    ("<think>a</think>x<answer>b</answer>", 1, 0),
    ("<think>a</think><answer>b</answer>x", 1, 0),
    ("<think>a</think><answer>b</answer><answer>c</answer>", 1, 0),
    ("<think>a<think>b</think>c", 0, 0),
    ("<think>a</think>b</think>c", 0, 0),
    ("</think>b<think>a", 0, 0),
    ("<answer>b</answer>", 0, 0),
    ("", 0, 0),
]


@pytest.mark.parametrize(("text", "thoughts", "answer"), FORMS)
def test_forms(text, thoughts, answer):
    chat = [{"role": "assistant", "content": text}]
    assert think_format_reward([text, chat]) == [thoughts, thoughts]
    assert think_answer_format_reward(completions=[text, chat], answer=["1", "2"]) == [answer, answer]


def test_dapos_penalty():
    """Equation 13 with L_max = 20480 and a cache of 4096: nothing up to 16384, then a line down to -1."""
    penalty = get_reward("soft_overlong").with_length(20480)
    ids = [[0] * length for length in (0, 16384, 16384 + 1024, 16384 + 3072, 20480, 20481)]
    assert penalty(completion_ids=ids, completions=["x"] * 6) == [0, 0, -0.25, -0.75, -1, -1]
    assert pickle.loads(pickle.dumps(penalty))(completion_ids=ids[2:3]) == [-0.25]
    assert SoftOverlong(10, buffer=10)(completion_ids=[[0] * 5]) == [-0.5]
    assert SoftOverlong(10).with_length(99).max_completion_length == 10


def test_a_penalty_that_knows_no_length_says_so():
    with pytest.raises(RewardError, match="does not know how long"):
        get_reward("soft_overlong")(completion_ids=[[1]])
    with pytest.raises(RewardError, match="buffer is 11"):
        SoftOverlong(10, buffer=11)
