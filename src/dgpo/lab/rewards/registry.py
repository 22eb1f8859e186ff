"""Scorers by the names that a recipe uses."""

from collections.abc import Callable
from typing import Any

from dgpo.errors import RecipeError
from dgpo.lab.rewards.exact import exact_match_reward, has_text
from dgpo.lab.rewards.format import think_answer_format_reward, think_format_reward
from dgpo.lab.rewards.length import soft_overlong_reward
from dgpo.lab.rewards.math import (
    math_answer_reward,
    math_boxed_reward,
    math_hashes_reward,
    math_last_number_reward,
    math_reward,
    math_tag_reward,
)
from dgpo.lab.rewards.numbers import is_number, last_number_reward
from dgpo.names import did_you_mean


def _any_gold(gold: Any) -> bool:
    return True


RewardFn = Callable[..., list[float | None]]

# name -> (the scorer, whether it can score against a gold answer)
_REWARDS: dict[str, tuple[RewardFn, Callable[[Any], bool]]] = {
    "last_number": (last_number_reward, is_number),
    "exact_match": (exact_match_reward, has_text),
    "math": (math_reward, has_text),
    "math_boxed": (math_boxed_reward, has_text),
    "math_answer": (math_answer_reward, has_text),
    "math_hashes": (math_hashes_reward, has_text),
    "math_tag": (math_tag_reward, has_text),
    "math_last_number": (math_last_number_reward, has_text),
    # These look at the completion alone.
    "think_format": (think_format_reward, _any_gold),
    "think_answer_format": (think_answer_format_reward, _any_gold),
    "soft_overlong": (soft_overlong_reward, _any_gold),
}


def reward_names() -> tuple[str, ...]:
    """Return the names that `get_reward` knows.

    Returns:
        The names, in the order that messages list them.

    Example:
        >>> reward_names()[:3]
        ('last_number', 'exact_match', 'math')
    """
    return tuple(_REWARDS)


def get_reward(name: str) -> RewardFn:
    """Return the scorer of this name.

    Args:
        name: One of `reward_names()`.

    Returns:
        A function `fn(completions, answer, **columns)` that gives one number or `None` per completion.

    Raises:
        RecipeError: If there is no scorer of this name.

    Example:
        >>> get_reward("last_number")(["so 7"], ["7"])
        [1.0]
    """
    return _entry(name)[0]


def can_score(name: str, gold: Any) -> bool:
    """Return whether the scorer of this name can score against this gold answer, rather than give `None`.

    Args:
        name: One of `reward_names()`.
        gold: A gold answer.

    Returns:
        True if a completion would get a number.

    Raises:
        RecipeError: If there is no scorer of this name.

    Example:
        >>> can_score("last_number", "seven"), can_score("exact_match", "seven")
        (False, True)
    """
    return _entry(name)[1](gold)


def _entry(name: str) -> tuple[RewardFn, Callable[[Any], bool]]:
    if name not in _REWARDS:
        hint = did_you_mean(str(name), _REWARDS)
        raise RecipeError(f"there is no reward {name!r}.{hint} The rewards are: {', '.join(_REWARDS)}.")
    return _REWARDS[name]
