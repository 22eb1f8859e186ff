"""What is intact of the files of a run, for a page that is drawn of it; notes name what is not."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def intact_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Return the lines of a file of metrics that can be read.

    Args:
        path: JSON lines, each an object with a `step`.
        notes: Gets a sentence if other lines are left out.

    Returns:
        The objects, in order.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> _ = path.write_bytes(b'{"step": 1}\\n[1, 2]\\n{"step": 3, "reward": "\\xff"}\\n{"st')
        >>> notes = []
        >>> intact_lines(path, notes), notes
        ([{'step': 1}], ['metrics.jsonl is damaged: 3 of its lines cannot be read and are left out.'])
    """
    lines = []
    try:
        whole = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error.strerror}.")
        return []
    for line in whole:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and is_step(value.get("step")):
            lines.append(value)
    if len(lines) < len(whole):
        notes.append(f"{path.name} is damaged: {len(whole) - len(lines)} of its lines cannot be read and are left out.")
    return lines


def damaged_lines(path: Path, expected: int = 1) -> int:
    """Return how many lines of a file of JSON lines are not there or cannot be read.

    Args:
        path: The file.
        expected: How many it must have, at least; a file that was cut at the end of a line looks whole otherwise.

    Returns:
        0 for an intact file.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return expected
    torn = bool(lines.pop())
    readable = sum(map(_is_object, lines))
    return max(torn + len(lines) - readable, expected - readable)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def intact_mapping(path: Path, notes: list[str]) -> dict[str, Any]:
    """Return the object of a JSON file; empty if there is no such file, or if it is damaged, with a note."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    notes.append(f"{path.name} is damaged and left out.")
    return {}


def if_intact(
    read: Callable[[dict[str, Any]], _Result], mapping: dict[str, Any], name: str, notes: list[str]
) -> _Result:
    """Return what a function reads in a mapping; in an empty one, with a note, if something there is of a wrong kind.

    Args:
        read: The function; it must take an empty mapping.
        mapping: Its argument.
        name: The file's, for the note.
        notes: Gets a sentence if the mapping is damaged.

    Returns:
        Its result.
    """
    try:
        return read(mapping)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        notes.append(f"{name} is damaged and left out.")
        return read({})


def is_step(value: Any) -> bool:
    """Return whether a value is the number of a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def as_finite(value: Any) -> float | None:
    """Return a finite number as float, and None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        return None
    return number if math.isfinite(number) else None
