"""The whole completion, compared with the gold answer as text: exactly, or leniently."""

from collections.abc import Sequence
from typing import Any

from dgpo.lab.rewards.completions import Completion, completion_text


def exact_match_reward(completions: Sequence[Completion], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return 1 for each completion that is the gold answer and nothing else, 0 for the others.

    Case and white space do not count: both sides are casefolded, stripped, and every run of white space becomes one
    space. Punctuation counts.

    Args:
        completions: Texts, or lists of chat messages, as TRL hands them over.
        answer: One gold answer per completion; anything but a text is compared by its `str`.
        **columns: The other columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion, or `None` where the gold answer is missing or blank.

    Raises:
        ValueError: If there is not one gold answer per completion.

    Example:
        >>> exact_match_reward(["  New   York ", "New York.", "x"], ["new york", "new york", ""])
        [1.0, 0.0, None]
    """
    return [
        float(_plain(completion_text(completion)) == _plain(str(gold))) if has_text(gold) else None
        for completion, gold in zip(completions, answer, strict=True)
    ]


def text_match_reward(completions: Sequence[Completion], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return 1 for each completion that is the gold answer up to case, white space and final stops, 0 for the others.

    Args:
        completions: Texts, or lists of chat messages, as TRL hands them over.
        answer: One gold answer per completion.
        **columns: The other columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion, or `None` where the gold answer is missing or blank.

    Raises:
        ValueError: If there is not one gold answer per completion.

    Example:
        >>> text_match_reward(["New York.", "New York", "new york, USA"], ["New York", "New York.", "New York"])
        [1.0, 1.0, 0.0]
    """
    return [
        float(_unstopped(completion_text(completion)) == _unstopped(str(gold))) if has_text(gold) else None
        for completion, gold in zip(completions, answer, strict=True)
    ]


def has_text(gold: Any) -> bool:
    """Return whether `exact_match_reward` can score against this gold answer.

    Args:
        gold: A gold answer.

    Returns:
        True unless it is missing or blank.

    Example:
        >>> has_text("yes"), has_text(0), has_text("  "), has_text(None)
        (True, True, False, False)
    """
    return gold is not None and bool(str(gold).strip())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _unstopped(text: str) -> str:
    plain = _plain(text)
    return plain.rstrip(".\u3002 ") or plain
