"""The language of forks: what is right, what each token is good for, and what is held out."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.lab.tasks.forks import completion_roles, forks_reward, token_roles
from dgpo.lab.tasks.forks import language as lang

pairs = st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1])
prompts = st.lists(pairs, min_size=1, max_size=6).map(tuple)
seeds = st.integers(0, 10**6)


def roles_of(text: str) -> list[str]:
    return completion_roles(lang.encode(text))


def test_the_example_of_the_documentation() -> None:
    forks = ((7, 3), (2, 9), (5, 6), (1, 8))
    assert lang.prompt_text(forks) == "7 3 | 2 9 | 5 6 | 1 8 ?"
    assert lang.answer_text(forks) == "7 9 6 8"
    right = "ok 7 3 > 7 ; hmm 2 9 > 9 ; so 5 6 > 6 ; well 1 8 > 8 ; = 7 9 6 8"
    assert forks_reward([right], ["7 9 6 8"]) == [1.0]
    assert forks_reward(completions=[right], answer=["7 9 6 8"], prompts=["p"], completion_ids=[[1]]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("ok 7 3 > 7 ; ok 2 9 > 9 ; = 7 9", 1.0),
        ("ok 7 3 > 3 ; ok 2 9 > 2 ; = 7 9", 1.0),  # the answer counts, not the steps
        ("= 7 9", 1.0),
        ("= 1 = 7 9", 1.0),  # the last answer counts
        ("ok 7 3 > 7 ; ok 2 9 > 9 ; = 7 2", 0.0),
        ("ok 7 3 > 7 ; ok 2 9 > 9 ; = 9 7", 0.0),
        ("ok 7 3 > 7 ; ok 2 9 > 9 ; = 7", 0.0),
        ("ok 7 3 > 7 ; ok 2 9 > 9 ; = 7 9 9", 0.0),
        ("ok 7 3 > 7 ; ok 2 9 > 9 ;", 0.0),
        ("7 9", 0.0),
        ("=", 0.0),
        ("", 0.0),
        ([{"role": "assistant", "content": "= 7 9"}], 1.0),
    ],
)
def test_the_reward(completion, reward) -> None:
    assert forks_reward([completion], ["7 9"]) == [reward]


def test_a_missing_answer_is_not_ignored() -> None:
    with pytest.raises(ValueError, match="zip"):
        forks_reward(["= 7", "= 7"], ["7"])


@given(prompts, seeds)
def test_demonstrations_are_right_or_wrong_as_asked(forks, seed) -> None:
    right = lang.demonstration(forks, 1.0, random.Random(seed))
    wrong = lang.demonstration(forks, 0.0, random.Random(seed))
    assert forks_reward([right, wrong], [lang.answer_text(forks)] * 2) == [1.0, 0.0]


@given(prompts, seeds)
def test_the_fixed_layout_and_the_grammar_agree_on_every_demonstration(forks, seed) -> None:
    ids = [*lang.encode(lang.demonstration(forks, 0.5, random.Random(seed))), lang.WORD_IDS[lang.EOS]]
    assert len(ids) == lang.completion_length(len(forks))
    assert completion_roles(ids) == token_roles(len(forks))


@given(prompts, seeds, st.data())
def test_roles_say_what_decides_the_reward(forks, seed, data) -> None:
    """Another style word never changes a demonstration's reward; the other pick, carried to the answer, always does."""
    words = lang.demonstration(forks, 1.0, random.Random(seed)).split()
    roles = token_roles(len(forks))[: len(words)]
    answer = [lang.answer_text(forks)]
    decoy = data.draw(st.sampled_from([i for i, role in enumerate(roles) if role == "decoy"]))
    styled = [*words[:decoy], data.draw(st.sampled_from(lang.STYLE_WORDS)), *words[decoy + 1 :]]
    assert forks_reward([" ".join(styled)], answer) == [1.0]

    fork = data.draw(st.integers(0, len(forks) - 1))
    pivot = [i for i, role in enumerate(roles) if role == "pivot"][fork]
    other = str(min(forks[fork]))
    assert words[pivot] == str(max(forks[fork]))
    flipped = words.copy()
    flipped[pivot] = flipped[len(words) - len(forks) + fork] = other
    assert forks_reward([" ".join(flipped)], answer) == [0.0]


def test_the_share_of_each_role() -> None:
    # 4 forks: 30 tokens, of which 4 pivots and 4 decoys.
    roles = token_roles(4)
    assert (len(roles), roles.count("pivot"), roles.count("decoy"), roles.count("copy")) == (30, 4, 4, 22)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("ok 7 3 > 7 ; = 7 <eos>", "dcccpcccc"),
        ("ok 7 3 > 7 ; = 7 <eos> <pad> <pad>", "dcccpccccnn"),
        ("ok ok 7 > > 7 7", "dccccpc"),  # only the first style word; only the digit right after >
        ("7 3 > 7 ;", "cccpc"),  # the style word left out
        ("ok > ok ; > ; ok", "dccccc" + "d"),  # a style word where a pick belongs is no decoy
        ("= > 7 ; ok", "ccccc"),  # nothing is decided after the answer begins
        ("<eos> ok > 7", "cnnn"),
        ("banana > 7", "ccp"),  # an unknown word
    ],
)
def test_roles_of_malformed_completions(text, expected) -> None:
    names = {"d": "decoy", "p": "pivot", "c": "copy", "n": "none"}
    assert roles_of(text) == [names[letter] for letter in expected]


@given(st.lists(st.integers(-5, 200), max_size=60))
def test_any_ids_get_one_role_each(ids) -> None:
    roles = completion_roles(ids)
    assert len(roles) == len(ids)
    assert set(roles) <= {"pivot", "decoy", "copy", "none"}


def test_ids_are_the_positions_of_the_words() -> None:
    assert [lang.WORDS[i] for i in lang.encode("7 3 | ? > ; = hmm <eos> nonsense")] == [
        *["7", "3", "|", "?", ">", ";", "=", "hmm", "<eos>", "<unk>"]
    ]


def test_the_two_streams_never_meet_and_share_everything_out() -> None:
    draw = lambda seed, held_out: itertools.islice(  # noqa: E731
        lang.draw_forks(1, random.Random(seed), held_out=held_out), 2000
    )
    train, held_out = set(draw(0, False)), set(draw(1, True))
    assert not train & held_out
    assert train | held_out == set(lang.all_forks(1))  # 90 prompts; 2000 draws miss one with probability < 1e-8
    assert all(x != y for ((x, y),) in train | held_out)


def test_demonstrations_pick_and_style_evenly() -> None:
    rng = random.Random(0)
    texts = [lang.demonstration(((7, 3), (2, 9)), 0.5, rng) for _ in range(2000)]
    # Binomial(2000, 1/4) has a deviation of 19, Binomial(2000, 1/4) of both picks right as well: 5 deviations.
    assert abs(sum(forks_reward(texts, ["7 9"] * 2000)) - 500) < 97
    for word in lang.STYLE_WORDS:
        assert abs(sum(text.startswith(word) for text in texts) - 500) < 97
