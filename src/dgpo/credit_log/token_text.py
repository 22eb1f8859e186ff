"""The text of single tokens, so that the pieces put together are the text of all of them."""

from collections.abc import Callable, Sequence
from typing import Any

_REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not (yet) a character
_LONGEST_CHARACTER = 4  # bytes of a character in UTF-8, so tokens that can wait for its end


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds; joined, the pieces are the decoded sequence.

    A character may be spread over several tokens (byte-level tokenizers do so with emoji). The token that completes it
    has all of it, and those before it have the empty string.

    Args:
        tokenizer: Anything with the `decode` of a transformers tokenizer.
        token_ids: Ids of one sequence.

    Returns:
        As many strings as there are ids; special tokens have their names.

    Example:
        >>> class Bytes:
        ...     def decode(self, ids, **options):
        ...         return bytes(ids).decode("utf-8", errors="replace")
        >>> token_texts(Bytes(), list("né!".encode()))
        ['n', '', 'é', '!']
    """
    ids = [int(index) for index in token_ids]

    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    # Most of the time the tokens' own texts are the answer, and there are far fewer different tokens than tokens.
    alone = {index: decode([index]) for index in set(ids)}
    pieces = [alone[index] for index in ids]
    return pieces if "".join(pieces) == decode(ids) else _grown(decode, ids, alone)


def _grown(decode: Callable[[Sequence[int]], str], ids: list[int], alone: dict[int, str]) -> list[str]:
    """Decode ever longer windows; a piece is what a window has beyond the one before it."""
    pieces: list[str] = []
    start = settled = 0  # a window starts one settled group back, since spaces depend on what stands before
    for end in range(1, len(ids) + 1):
        before, after = decode(ids[start:settled]), decode(ids[start:end])
        waits = after.endswith(_REPLACEMENT) and end - settled < _LONGEST_CHARACTER and end < len(ids)
        if waits:
            pieces.append("")
            continue
        pieces.append(after[len(before) :] if after.startswith(before) else alone[ids[end - 1]])
        start, settled = settled, end
    return pieces
