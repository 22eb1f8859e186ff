"""Whether a completion has the form of thoughts and an answer; what they say does not matter."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from dgpo.lab.rewards.completions import Completion, completion_text


def think_format_reward(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """Return 1 for each completion that is `<think>thoughts</think>` and then an answer, 0 for the others.

    Unlike TRL's reward of this name, it takes texts as well as chats, wants an answer after the thoughts, and each tag
    exactly once. A completion may begin inside the thoughts, as it does where the prompt ends with `<think>`.

    Args:
        completions: Texts, or lists of chat messages.
        **columns: The columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion.

    Example:
        >>> think_format_reward(["<think>1 + 1</think> 2", "<think>1 + 1</think>", "1 + 1</think>2", "2"])
        [1.0, 0.0, 1.0, 0.0]
    """
    return _scores(completions, _is_thoughts_and_text)


def think_answer_format_reward(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """Return 1 for each completion that is `<think>thoughts</think><answer>answer</answer>` and nothing else.

    Args:
        completions: Texts, or lists of chat messages.
        **columns: The columns of the data set, unused.

    Returns:
        1.0 or 0.0 per completion.

    Example:
        >>> think_answer_format_reward(["<think>1 + 1</think>\\n<answer>2</answer>", "<think>1 + 1</think> 2"])
        [1.0, 0.0]
    """
    return _scores(completions, _is_thoughts_and_answer)


def _scores(completions: Sequence[Completion], holds: Callable[[str], bool]) -> list[float | None]:
    return [float(holds(completion_text(completion))) for completion in completions]


def _after_thoughts(text: str) -> str | None:
    """What follows the thoughts; `None` if the tags are not there exactly once, in order, at the start."""
    text = text.strip()
    thoughts, closing, rest = text.partition("</think>")
    inside = thoughts.removeprefix("<think>")
    if not closing or not inside.strip() or "<think>" in inside + rest or "</think>" in rest:
        return None
    return rest


def _is_thoughts_and_text(text: str) -> bool:
    return bool((_after_thoughts(text) or "").strip())


def _is_thoughts_and_answer(text: str) -> bool:
    rest = (_after_thoughts(text) or "").strip()
    tags = re.findall(r"</?answer>", rest)
    whole = rest.startswith("<answer>") and rest.endswith("</answer>")
    return tags == ["<answer>", "</answer>"] and whole and bool(rest[len("<answer>") : -len("</answer>")].strip())
