"""What the model said, whatever form the trainer hands it over in."""

from collections.abc import Mapping, Sequence
from typing import Any

Completion = str | Sequence[Mapping[str, Any]]
"""TRL's completion: a text for a text prompt, a list of chat messages for a chat prompt."""


def completion_text(completion: Completion) -> str:
    """Return the text of a completion: itself, or the content of its last assistant message.

    Args:
        completion: A text, or chat messages such as `[{"role": "assistant", "content": "7"}]`. A content may be a list
            of parts, of which the text parts count; a message without content (a tool call) is an empty text.

    Returns:
        The text, `""` if no assistant message is there.

    Raises:
        TypeError: If `completion` is neither a text nor a list of messages.

    Example:
        >>> completion_text("7")
        '7'
        >>> completion_text([{"role": "assistant", "content": "It is 7."}])
        'It is 7.'
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, Sequence):
        raise TypeError(f"a completion must be a text or a list of chat messages, got {type(completion).__name__}.")
    for message in reversed(completion):
        if not isinstance(message, Mapping):
            raise TypeError(f"a chat message must be a dict, got {type(message).__name__}.")
        if message.get("role") == "assistant":
            return _content_text(message.get("content"))
    return ""


def _content_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type", "text") == "text")
