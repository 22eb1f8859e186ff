"""Scorers by the names that a recipe uses."""

from collections.abc import Callable
from typing import Any

from dgpo.errors import RecipeError
from dgpo.rewards._names import did_you_mean
from dgpo.rewards.exact import exact_match_reward, has_text
from dgpo.rewards.numbers import is_number, last_number_reward

RewardFn = Callable[..., list[float | None]]

# name -> (the scorer, whether it can score against a gold answer)
_REWARDS: dict[str, tuple[RewardFn, Callable[[Any], bool]]] = {
    "last_number": (last_number_reward, is_number),
    "exact_match": (exact_match_reward, has_text),
}


def reward_names() -> tuple[str, ...]:
    """Return the names that `get_reward` knows.

    Returns:
        The names, in the order that messages list them.

    Example:
        >>> reward_names()
        ('last_number', 'exact_match')
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
