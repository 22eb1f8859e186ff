"""Entries of any plain Python values as JSON text and back, without loss: a data set's column holds one type."""

import json
from typing import Any

# JSON has neither tuples nor sets nor keys of other types than text; these mark what a value was.
_TUPLE, _SET, _ITEMS = "__tuple__", "__set__", "__items__"
_MARKS = frozenset({_TUPLE, _SET, _ITEMS})


def dump_entry(entry: Any) -> str:
    """Return a JSON text that `load_entry` turns back into an equal value: tuples stay tuples, keys keep their type.

    Args:
        entry: Nested dicts, lists, tuples and sets of texts, numbers, booleans and None.

    Returns:
        JSON.

    Raises:
        TypeError: If a value is of another type.

    Example:
        >>> load_entry(dump_entry({"size": (2, 3), 4: {"a"}}))
        {'size': (2, 3), 4: {'a'}}
    """
    return json.dumps(_mark(entry), ensure_ascii=False)


def load_entry(text: str) -> Any:
    """Return the value that `dump_entry` wrote.

    Args:
        text: JSON.

    Returns:
        An equal value.

    Example:
        >>> load_entry('{"size": {"__tuple__": [2, 3]}}')
        {'size': (2, 3)}
    """
    return json.loads(text, object_hook=_unmark)


def _mark(value: Any) -> Any:
    if isinstance(value, dict):
        plain = all(isinstance(key, str) for key in value) and not _MARKS.intersection(value)
        if plain:
            return {key: _mark(item) for key, item in value.items()}
        return {_ITEMS: [[_mark(key), _mark(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_mark(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {_SET: [_mark(item) for item in value]}
    if isinstance(value, list):
        return [_mark(item) for item in value]
    # numpy's scalars and arrays: what they hold, as plain numbers.
    return _mark(value.tolist()) if hasattr(value, "tolist") else value


def _unmark(value: dict[str, Any]) -> Any:
    if len(value) == 1:
        (mark, items) = next(iter(value.items()))
        if mark == _TUPLE:
            return tuple(items)
        if mark == _SET:
            return set(items)
        if mark == _ITEMS:
            return dict(items)
    return value
