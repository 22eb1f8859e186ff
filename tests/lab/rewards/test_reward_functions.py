"""The scorers: what counts as a number, what counts as equal, and what cannot be scored."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.errors import RecipeError
from dgpo.lab.rewards import (
    can_score,
    completion_text,
    exact_match_reward,
    get_reward,
    is_number,
    last_number,
    last_number_reward,
    parse_number,
    reward_names,
)

LAST_NUMBERS = [
    ("7", "7"),
    ("3 + 4 = 7.", "7"),
    ("first 3 then 4", "4"),
    ("-5", "-5"),
    ("x = -5", "-5"),
    ("x=-5", "-5"),
    ("(-5)", "-5"),
    ("5-3", "3"),  # a difference, not minus three
    ("5 - 3", "3"),
    ("f(x)-3", "3"),
    ("−5", "-5"),  # U+2212, the minus of typeset mathematics
    ("$-5", "-5"),
    ("-$5", "-5"),
    ("$1,234.50", "1234.50"),
    ("1,234,567", "1234567"),
    ("1,2,3", "3"),  # a list: groups of a thousand have three digits
    ("1,2345", "2345"),
    ("12345,678", "678"),
    ("3.14", "3.14"),
    (".5", "0.5"),
    ("about .5", "0.5"),
    ("it is...5", "5"),
    ("007", "7"),
    ("50%", "50"),
    ("5km", "5"),
    ("\\boxed{42}", "42"),
    ("答案是42。", "42"),
    ("let x2 be", None),  # a digit inside a word
    ("3/4", None),  # a quotient is no number, and above all not 4
    ("3 / 4", None),
    ("3/4 is 0.75", "0.75"),
    ("1e5", None),  # not 1
    ("no idea", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), LAST_NUMBERS)
def test_last_number(text: str, expected: str | None) -> None:
    assert last_number(text) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("42", "42"),
        (" 42 ", "42"),
        ("-1,234.5", "-1234.5"),
        ("+3", "3"),
        ("$5", "5"),
        (42, "42"),
        (0.1, "0.1"),
        ("3/4", None),
        ("5 km", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        ("1e5", None),
    ],
)
def test_parse_number(gold: object, expected: str | None) -> None:
    assert parse_number(gold) == (None if expected is None else Decimal(expected))
    assert is_number(gold) is (expected is not None)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "= {}.", "so {} it is"]))
def test_any_integer_is_found_in_any_dress(number: int, dress: str) -> None:
    assert last_number(dress.format(number)) == number


@given(st.text(alphabet="0123456789.,-/e $x", max_size=40))
def test_any_text_gives_a_finite_number_or_none(text: str) -> None:
    number = last_number(text)
    assert number is None or number.is_finite()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_comparison_is_exact(number: Decimal) -> None:
    # An independent reading of the same text by fractions: equal iff equal as rationals.
    nudged = number + Decimal("0.001")
    assert last_number_reward([f"{number:f}", f"{nudged:f}"], [str(number)] * 2) == [1.0, 0.0]
    assert Fraction(str(last_number(f"{number:f}"))) == Fraction(str(number))


def test_thousands_of_digits_are_compared() -> None:
    # Python refuses to read an int of more than 4300 digits; a model may well write one.
    assert last_number_reward(["9" * 5000, "9" * 4999], ["9" * 5000] * 2) == [1.0, 0.0]


def test_last_number_reward_reads_texts_and_chats_and_marks_the_unscorable() -> None:
    chat = [{"role": "assistant", "content": "3 + 4 = 7"}]
    assert last_number_reward(
        prompts=["p"] * 4, completions=[chat, "8", "7.0", "7"], completion_ids=[[1]] * 4, answer=["7", 7, "7", "VII"]
    ) == [1.0, 0.0, 1.0, None]


@pytest.mark.parametrize(
    ("completion", "gold", "expected"),
    [
        ("Paris", "paris", 1.0),
        ("  new\n york ", "New York", 1.0),
        ("STRASSE", "straße", 1.0),
        ("Paris.", "Paris", 0.0),
        ("It is Paris", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("7", 7, 1.0),
        ("0", 0, 1.0),
        ("x", "", None),
        ("x", "  ", None),
        ("x", None, None),
        ([{"role": "assistant", "content": "paris"}], "Paris", 1.0),
    ],
)
def test_exact_match(completion: object, gold: object, expected: float | None) -> None:
    assert exact_match_reward([completion], [gold]) == [expected]


@pytest.mark.parametrize("reward", [last_number_reward, exact_match_reward])
def test_a_missing_gold_answer_is_not_ignored(reward) -> None:
    with pytest.raises(ValueError, match="zip"):
        reward(["7", "7"], ["7"])


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("abc", "abc"),
        ([{"role": "assistant", "content": "abc"}], "abc"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ""),
        ([{"role": "assistant", "content": "call"}, {"role": "tool", "content": "9"}], "call"),
        ([{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}], "b"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}], "a"),
        ([{"role": "tool", "content": "9"}], ""),
        ([], ""),
    ],
)
def test_completion_text(completion: object, text: str) -> None:
    assert completion_text(completion) == text


def test_completion_text_refuses_what_is_neither() -> None:
    with pytest.raises(TypeError, match="got int"):
        completion_text(7)
    with pytest.raises(TypeError, match="got str"):
        completion_text(["7"])


def test_rewards_are_found_by_name_and_the_nearest_is_offered() -> None:
    assert get_reward("last_number") is last_number_reward
    assert get_reward("exact_match") is exact_match_reward
    assert set(reward_names()) >= {"last_number", "exact_match"}
    with pytest.raises(RecipeError, match=r"no reward 'lastnumber'\. Did you mean 'last_number'"):
        get_reward("lastnumber")
    with pytest.raises(RecipeError, match="The rewards are: last_number, exact_match"):
        can_score("zzz", "7")
