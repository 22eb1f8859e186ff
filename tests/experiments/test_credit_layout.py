"""The tensors of the experiment speak the language of `dgpo.lab.tasks.forks`, token by token."""

import random

import pytest
import torch

from dgpo.lab.tasks.forks.language import (
    WORDS,
    answer_text,
    completion_roles,
    encode,
    forks_reward,
    is_held_out,
    prompt_text,
    token_roles,
)
from experiments.credit import layout as language
from experiments.credit.layout import Layout, Prompts

FORKS = Layout(3)


def texts(ids):
    return [" ".join(WORDS[index] for index in row).split(" <eos>")[0] for row in ids.tolist()]


def damaged(ids, rng, rate):
    """Completions of which some tokens have become others, as an untrained policy would say them."""
    spoken = torch.tensor(
        [[rng.randrange(4, len(WORDS)) if rng.random() < rate else t for t in row] for row in ids.tolist()]
    )
    ends = torch.tensor([rng.choice([ids.shape[1], rng.randrange(ids.shape[1])]) for _ in range(len(ids))])
    for row, end in enumerate(ends.tolist()):
        if end < ids.shape[1]:
            spoken[row, end] = language.EOS
            spoken[row, end + 1 :] = language.PAD
    return spoken


@pytest.fixture
def shown():
    digits = Prompts(FORKS, "test").take(200)
    return digits, language.demonstrations(FORKS, digits, 0.7, torch.Generator().manual_seed(0))


def test_prompts_are_those_of_the_task_and_keep_to_their_side_of_the_split():
    for held_out in (False, True):
        digits = Prompts(FORKS, "test", held_out=held_out).take(50)
        forks = [tuple(map(tuple, one)) for one in digits.tolist()]
        assert all(is_held_out(one) == held_out for one in forks)
        assert language.prompt_ids(digits)[:, 1:].tolist() == [encode(prompt_text(one)) for one in forks]
    assert not torch.equal(Prompts(FORKS, "test").take(9), Prompts(FORKS, "other").take(9))


def test_demonstrations_are_well_formed_and_as_often_right_as_asked_for(shown):
    digits, ids = shown
    assert ids.shape[1] == FORKS.length == len(token_roles(3))
    assert {tuple(completion_roles(row)) for row in ids.tolist()} == {tuple(token_roles(3))}
    assert language.rewards(ids, digits).mean().item() == pytest.approx(0.7**3, abs=0.1)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
def test_rewards_and_roles_are_those_of_the_task_for_broken_completions_too(shown, rate):
    digits, ids = shown
    spoken = damaged(ids, random.Random(0), rate)
    answers = [answer_text([tuple(pair) for pair in one]) for one in digits.tolist()]
    assert language.rewards(spoken, digits).tolist() == forks_reward(texts(spoken), answers)
    roles = language.token_roles(FORKS, spoken)
    expected = [completion_roles(row) for row in spoken.tolist()]
    for role in ("pivot", "decoy", "copy"):
        assert roles[role].tolist() == [[one == role for one in row] for row in expected]
    assert not roles["habit"].any()


def test_fillers_and_habits_have_their_own_roles():
    layout = Layout(2, num_fillers=3, habit=True)
    digits = Prompts(layout, "test").take(4)
    ids = language.demonstrations(layout, digits, 0.5, torch.Generator().manual_seed(0), habit=language.POLICY_HABIT)
    assert ids.shape[1] == layout.length
    roles = language.token_roles(layout, ids)
    assert (ids[roles["habit"]] == language.POLICY_HABIT).all()
    assert [int(roles[role].sum(1)[0]) for role in language.ROLES] == [2, 6, 2, 2 * 4 + 4]
    assert (sum(mask.long() for mask in roles.values()) == language.trained_mask(ids)).all()


def test_a_pick_causes_the_outcome_while_all_before_it_are_right():
    digits = torch.tensor([[[1, 5], [7, 2], [3, 4]]] * 3)
    picks = [[5, 7, 4], [5, 2, 4], [1, 2, 3]]
    ids = torch.tensor(
        [
            encode(
                " ".join(f"ok {x} {y} > {p} ;" for (x, y), p in zip([(1, 5), (7, 2), (3, 4)], row, strict=True)) + " ="
            )
            for row in picks
        ]
    )
    pivots = language.token_roles(FORKS, ids)["pivot"]
    signs = language.causal_signs(pivots, ids, digits)
    assert signs[pivots].view(3, 3).tolist() == [[1, 1, 1], [1, -1, 0], [-1, 0, 0]]
    assert (signs[~pivots] == 0).all()
