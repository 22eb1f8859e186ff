"""reasoning-gym's scorers as reward functions: the answer taken out of the completion, and what they cannot read."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from dgpo.errors import ConfigError
from dgpo.lab.foreign_text import visible
from dgpo.lab.rewards.completions import Completion, completion_text
from dgpo.lab.rewards.numbers import last_number
from dgpo.lab.tasks.base import RewardFn
from dgpo.lab.tasks.entries import load_entry

Extraction = Literal["whole", "last_number", "tag"]
"""Which part of a completion is the answer: all of it, its last number, or what `<answer>...</answer>` holds."""

CODE_RUNNING_SCORERS = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
        "composite",  # may hold any of the above
    }
)
"""Data sets whose scorer hands the completion to `eval` or to sympy's parser, which runs it as Python code."""

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_NONSENSE = "no answer (("


def extract_answer(text: str, how: Extraction) -> str | None:
    """Return the part of a completion that is its answer, or `None` if it has none.

    Args:
        text: The completion.
        how: `"whole"`: all of it, stripped; `"last_number"`: its last number, read by `dgpo.lab.rewards.last_number`;
            `"tag"`: what its last `<answer>...</answer>` holds.

    Returns:
        The answer.

    Example:
        >>> extract_answer("3 + 4 = 7.", "last_number"), extract_answer("<answer> 7 </answer>", "tag")
        ('7', '7')
    """
    if how == "last_number":
        number = last_number(text)
        return None if number is None else f"{number:f}"
    if how == "tag":
        tagged = _TAG.findall(text)
        return tagged[-1].strip() if tagged else None
    return text.strip()


def scorer_reward(name: str, dataset: Any, how: Extraction) -> RewardFn:
    """Return the data set's scorer as a reward function that bears the data set's name.

    An answer that the scorer cannot read and raises on gets 0, with one warning.

    Args:
        name: The data set.
        dataset: An instance of it, for its `score_answer`.
        how: Which part of a completion the scorer gets.

    Returns:
        A function `fn(completions, entry, **columns)`; where only a part of the completion is the answer, its attribute
        `answer_of` finds that part, `None` if there is none.
    """
    unreadable_seen = False

    def reward(completions: Sequence[Completion], entry: Sequence[str], **columns: Any) -> list[float | None]:
        nonlocal unreadable_seen
        rewards: list[float | None] = []
        for completion, text in zip(completions, entry, strict=True):
            answer = extract_answer(completion_text(completion), how)
            score, problem = (0.0, None) if answer is None else _score(dataset, answer, load_entry(text))
            if problem is not None and not unreadable_seen:
                unreadable_seen = True
                warnings.warn(
                    f"reasoning_gym:{name}: its scorer raised {type(problem).__name__} ({visible(str(problem))}) on "
                    f"the answer {answer!r}; answers that it cannot read get 0.",
                    stacklevel=2,
                )
            rewards.append(score)
        return rewards

    reward.__name__ = reward.__qualname__ = name
    if how != "whole":
        # An evaluation counts completions without an answer apart from wrong answers.
        reward.answer_of = lambda text: extract_answer(text, how)  # type: ignore[attr-defined]
    reward.__doc__ = f"Return reasoning-gym's score of each completion of `{name}`, from 0 to 1."
    return reward


def refuse_if_blind(name: str, dataset: Any, entries: Sequence[dict[str, Any]]) -> None:
    """Refuse a scorer that gives full marks to nonsense, as `game_of_life_halting`'s does to any text.

    Args:
        name: The data set.
        dataset: An instance of it.
        entries: A few of its entries.

    Raises:
        ConfigError: If nonsense is right for all of them.
    """
    if all(_score(dataset, _NONSENSE, entry)[0] >= 1 for entry in entries):
        raise ConfigError(
            f"reasoning_gym:{name}: its scorer gives full marks to any answer, even to {_NONSENSE!r}; there is nothing "
            "to learn from it. Name another reward, such as rewards: [exact_match]."
        )


def _score(dataset: Any, answer: str, entry: dict[str, Any]) -> tuple[float, Exception | None]:
    """The score; or 0 and what the scorer raised, if it is the answer that it cannot read."""
    try:
        return float(dataset.score_answer(answer=answer, entry=entry)), None
    except Exception as error:
        # Many scorers parse the answer and raise on what they cannot read. Such an answer is wrong, and no reason to
        # end a run; a scorer that raises on the right answer too is broken, and that is one.
        if entry["answer"] is not None:
            dataset.score_answer(answer=entry["answer"], entry=entry)
        return 0.0, error
