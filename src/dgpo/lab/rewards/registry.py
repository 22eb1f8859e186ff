"""Scorers by what a recipe calls them: a name, or the import path of a function of one's own."""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from dgpo.errors import RecipeError
from dgpo.lab.rewards.exact import exact_match_reward, has_text, text_match_reward
from dgpo.lab.rewards.extraction import extract_answer
from dgpo.lab.rewards.format import think_answer_format_reward, think_format_reward
from dgpo.lab.rewards.length import SoftOverlong, soft_overlong_reward
from dgpo.lab.rewards.math import (
    MathReward,
    math_answer_reward,
    math_boxed_reward,
    math_hashes_reward,
    math_last_number_reward,
    math_reward,
    math_tag_reward,
)
from dgpo.lab.rewards.numbers import is_number, last_number_reward, last_number_text
from dgpo.names import did_you_mean, import_function


def _any_gold(gold: Any) -> bool:
    return True


RewardFn = Callable[..., list[float | None]]

_OF_TRL = ("prompts", "completions", "completion_ids", "answer", "trainer_state", "log_extra", "log_metric")
# name -> (the scorer, whether it can score against a gold answer)
_REWARDS: dict[str, tuple[RewardFn, Callable[[Any], bool]]] = {
    "last_number": (last_number_reward, is_number),
    "exact_match": (exact_match_reward, has_text),
    "text_match": (text_match_reward, has_text),
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
        ('last_number', 'exact_match', 'text_match')
    """
    return tuple(_REWARDS)


def is_own(name: str) -> bool:
    """Return whether a reward is named by the import path of a function: `module:function`, `file.py:function`.

    Args:
        name: What a recipe gives.

    Returns:
        Whether it is such a path.

    Example:
        >>> is_own("my_rewards.py:score"), is_own("math")
        (True, False)
    """
    return ":" in name


def get_reward(name: str, **options: Any) -> RewardFn:
    """Return the scorer of this name.

    Args:
        name: One of `reward_names()`, or an import path.
        **options: What a function of one's own is given by keyword beside TRL's arguments; a class is made with them.

    Returns:
        A function `fn(completions, answer, **columns)` that gives one number or `None` per completion.

    Raises:
        RecipeError: If there is no scorer of this name, its package is not installed, or it has no such option.
        ConfigError: If the import path names no function.

    Example:
        >>> get_reward("last_number")(["so 7"], ["7"])
        [1.0]
        >>> get_reward("operator:mul").__name__
        'mul'
    """
    if is_own(name):
        return _own_reward(name, options)
    reward = _entry(name)[0]
    if name.startswith("math") and importlib.util.find_spec("math_verify") is None:
        raise RecipeError(
            f"the reward {name} needs the package math-verify, which is not installed: pip install 'dgpo[lab]', or "
            "choose last_number or exact_match."
        )
    if options:
        _refuse_options(name, options, ("buffer",) if name == "soft_overlong" else ())
        return SoftOverlong(**options)
    return reward


def can_score(name: str, gold: Any) -> bool:
    """Return whether the scorer of this name can score against this gold answer, rather than give `None`.

    Args:
        name: One of `reward_names()`, or an import path.
        gold: A gold answer, or a list of which one is enough.

    Returns:
        True if a completion would get a number.

    Raises:
        RecipeError: If there is no scorer of this name.

    Example:
        >>> can_score("last_number", "seven"), can_score("exact_match", "seven"), can_score("last_number", ["x", "7"])
        (False, True, True)
    """
    holds = _any_gold if is_own(name) else _entry(name)[1]
    return any(map(holds, gold)) if isinstance(gold, list) else holds(gold)


def needs_gold(name: str) -> bool:
    """Return whether the scorer of this name compares with a gold answer; one's own may do without.

    Args:
        name: What a recipe gives.

    Returns:
        Whether it cannot score without one.

    Example:
        >>> needs_gold("math"), needs_gold("think_format"), needs_gold("my_rewards.py:score")
        (True, False, False)
    """
    return not can_score(name, None)


def answer_finder(reward: Any) -> Callable[[str], str | None]:
    """Return the function that finds the answer in a completion, as a scorer does.

    Args:
        reward: A reward function.

    Returns:
        A function of the text that gives the answer, `None` if there is none. A scorer that does not say takes the
        whole text.

    Example:
        >>> answer_finder(last_number_reward)("so 7."), answer_finder(exact_match_reward)(" ")
        ('7', None)
    """
    own: Callable[[str], str | None] | None = getattr(reward, "answer_of", None)
    if own is not None:
        return own
    if isinstance(reward, MathReward) and reward.answer_format != "math_verify":
        return functools.partial(extract_answer, answer_format=reward.answer_format)
    if reward is last_number_reward:
        return last_number_text
    return lambda text: text.strip() or None


def any_answer(reward: RewardFn) -> RewardFn:
    """Return a scorer whose gold answers may be lists of acceptable ones: the best score counts.

    Args:
        reward: A scorer of single gold answers.

    Returns:
        A function of the same name.

    Example:
        >>> any_answer(exact_match_reward)(["N.Y.", "LA"], [["New York", "N.Y."], ["New York"]])
        [1.0, 0.0]
    """

    def scored(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
        rows = [
            (index, gold)
            for index, golds in enumerate(answer)
            for gold in (golds if isinstance(golds, list) else [golds])
        ]
        values = reward(completions=[completions[index] for index, _ in rows], answer=[gold for _, gold in rows])
        best: list[float | None] = [None] * len(completions)
        for (index, _), value in zip(rows, values, strict=True):
            known = best[index]
            best[index] = value if known is None else known if value is None else max(known, value)
        return best

    scored.__name__ = scored.__qualname__ = reward.__name__
    scored.__doc__ = reward.__doc__
    scored.answer_of = answer_finder(reward)  # type: ignore[attr-defined]
    return scored


def _own_reward(name: str, options: dict[str, Any]) -> RewardFn:
    function = import_function(name)
    known = inspect.signature(function).parameters if callable(function) else {}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        _refuse_options(name, options, tuple(option for option in known if option not in _OF_TRL))
    if inspect.isclass(function):
        made: Any = function(**options)
        if not callable(made):
            raise RecipeError(f"the reward {name} is a class without __call__, so that it cannot score; give it one.")
        return made  # type: ignore[no-any-return]
    if not options:
        return function  # type: ignore[no-any-return]
    bound: Any = functools.partial(function, **options)
    bound.__name__ = getattr(function, "__name__", name.rpartition(":")[2])
    return bound  # type: ignore[no-any-return]


def refuse_unknown_arguments(reward: RewardFn, columns: Sequence[str]) -> None:
    """Raise if a reward wants an argument that it will not get.

    Args:
        reward: The function.
        columns: Columns of the data, which it gets by their names.

    Raises:
        RecipeError: Naming the argument, and those there are.
    """
    given = list(dict.fromkeys([*_OF_TRL, *columns]))
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):  # one in C says nothing of itself
        return
    for item in parameters:
        wanted = item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY) and item.default is item.empty
        if wanted and item.name not in given:
            name = getattr(reward, "__name__", type(reward).__name__)
            raise RecipeError(
                f"the reward {name} wants {item.name!r}, and neither TRL nor the data has it."
                f"{did_you_mean(item.name, given)} It can get: {', '.join(given)}."
            )


def _refuse_options(name: str, options: dict[str, Any], valid: Sequence[str]) -> None:
    for option in options:
        if option not in valid:
            has = f" Its options are: {', '.join(valid)}." if valid else " It has none."
            raise RecipeError(f"the reward {name} has no option {option!r}.{did_you_mean(option, valid)}{has}")


def _entry(name: str) -> tuple[RewardFn, Callable[[Any], bool]]:
    if name not in _REWARDS:
        hint = did_you_mean(str(name), _REWARDS)
        raise RecipeError(
            f"there is no reward {name!r}.{hint} The rewards are: {', '.join(_REWARDS)}; or one of your own, "
            "my_rewards.py:function."
        )
    return _REWARDS[name]
