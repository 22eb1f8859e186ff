"""The gold answer of a prompt, from the row of a data set, and answers as a tensor that travels with a rollout."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "solution")
"""Where the gold answer stands in common data sets, in the order in which they are looked at."""

VERL_ANSWER = "reward_model.ground_truth"
"""Where verl's data sets have it; a dot leads into a mapping."""

MAX_CHARACTERS = 2000
"""Of a longer answer the first and the last characters are kept: a worked solution ends with its result."""


def gold_answer(row: Mapping[str, Any], column: str | None = None) -> str | None:
    """Return the gold answer of a row of a data set as text.

    Args:
        row: The row, by column.
        column: The answer's column; a dot leads into a mapping. By default the first of `ANSWER_COLUMNS` and
            `VERL_ANSWER` that the row has.

    Returns:
        The text, JSON of what is neither text nor a number; None where there is none.

    Example:
        >>> gold_answer({"prompt": "2 + 2 = ", "answer": 4}), gold_answer({"entry": {"sum": [4]}}, "entry.sum")
        ('4', '[4]')
        >>> gold_answer({"prompt": "2 + 2 = "}) is None
        True
    """
    for name in (column,) if column else (*ANSWER_COLUMNS, VERL_ANSWER):
        value = _cell(row, name)
        if value is not None:
            break
    else:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=False)
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} […] {text[-half:]}"


def _plain(value: Any) -> Any:
    """What JSON can hold of a value: of what pandas reads, lists are arrays."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _cell(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def texts_as_tensor(texts: Sequence[str | None]) -> "Tensor":
    """Return texts as one tensor, which an engine shuffles, splits and saves with the other columns of a rollout.

    Args:
        texts: B texts; None where there is none.

    Returns:
        (B, L) uint8, UTF-8 after a first byte that says whether there is a text; padded with 0.

    Example:
        >>> texts_as_text(texts_as_tensor(["né", None, ""]))
        ['né', None, '']
    """
    import torch

    rows = [b"" if text is None else b"\x01" + text.encode("utf-8", errors="replace") for text in texts]
    width = max(1, *map(len, rows))
    data = bytearray(b"".join(row.ljust(width, b"\x00") for row in rows))
    return torch.frombuffer(data, dtype=torch.uint8).view(len(rows), width)


def texts_as_text(rows: "Tensor") -> list[str | None]:
    """Return the texts that `texts_as_tensor` was given, (B, L) uint8."""
    pieces = (bytes(row).rstrip(b"\x00") for row in rows.tolist())
    return [piece[1:].decode("utf-8") if piece else None for piece in pieces]
