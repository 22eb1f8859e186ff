"""The check that a value of a recipe fits the type of its field, and types in words."""

import math
import types
import typing
from enum import Enum
from typing import Any

from dgpo.names import did_you_mean

_MISFIT = object()
_FEW = 8  # choices that are all named where none of them fits


def fit(value: Any, hint: Any, *, name: str = "value", choices: tuple[str, ...] = ()) -> Any:
    """Return `value` as the type of its field: `"1e-4"` becomes a float where a float is wanted.

    Args:
        value: What YAML gave: text, number, boolean, `None`, list or mapping.
        hint: The type annotation of the field.
        name: The field, for messages.
        choices: The allowed texts; those of an enumeration are known from `hint`.

    Returns:
        The value, converted if that loses nothing.

    Raises:
        ValueError: If the value does not fit; the message says what is expected.

    Example:
        >>> fit("1e-4", float)
        0.0001
        >>> fit("fast", float | None, name="learning_rate")
        Traceback (most recent call last):
        ValueError: learning_rate must be a number (or null), got 'fast' (text)
    """
    if _holds_nul(value):
        raise ValueError(f"{name} holds a NUL character, which no path may: {_shown(value)}")
    fitted = _fit(value, hint)
    if fitted is _MISFIT:
        raise ValueError(f"{name} must be {describe(hint)}, got {_shown(value)}")
    choices = choices or _enum_choices(hint)
    if choices and isinstance(fitted, str) and fitted not in choices:
        near = did_you_mean(fitted, choices) if len(choices) > _FEW else ""
        hint = f".{near}" if near else f"; it must be one of {', '.join(choices)}"
        raise ValueError(f"{name}: {fitted!r} is not possible{hint}")
    return fitted


def describe(hint: Any) -> str:
    """Return a type annotation in words.

    Args:
        hint: An annotation such as `list[str] | None`.

    Returns:
        What a value must be.

    Example:
        >>> describe(float | None)
        'a number (or null)'
    """
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        dict: "a mapping",
        list: "a list",
        type(None): "null",
    }
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [describe(part) for part in arguments if not _is_enum(part) and part is not type(None)]
        return " or ".join(dict.fromkeys(parts)) + (" (or null)" if type(None) in arguments else "")
    if origin is list and arguments:
        return "a list of numbers" if arguments[0] is float else "a list of names"
    if origin is typing.Literal:
        return " or ".join(repr(part) for part in arguments)
    return names.get(origin, getattr(hint, "__name__", str(hint)))


def _holds_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_nul, [*value, *value.values()]))
    return any(map(_holds_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _enum_choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *typing.get_args(hint)):
        if _is_enum(part):
            return tuple(str(member.value) for member in part)
    return ()


def _fit(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments)
    if origin is typing.Literal:
        return value if any(value is part or value == part for part in arguments) else _MISFIT
    if hint in (list, dict) or origin in (list, dict):
        return _fit_container(value, origin or hint, arguments)
    if _is_enum(hint):
        return value if isinstance(value, str) else _MISFIT
    return _fit_scalar(value, hint)


def _fit_union(value: Any, parts: tuple[Any, ...]) -> Any:
    # A part that holds the value as it stands wins over one that would convert it: "auto" stays text in int | str.
    for part in parts:
        if isinstance(part, type) and type(value) is part:
            return value
    # Text is the widest type, so it comes last.
    for part in sorted(parts, key=lambda part: part is str):
        fitted = _fit(value, part)
        if fitted is not _MISFIT:
            return fitted
    return _MISFIT


def _fit_container(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if kind is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else _MISFIT
    if isinstance(value, dict) or value is None:
        return _MISFIT
    # One name stands for a list of one, as TRL allows ("all-linear").
    items = value if isinstance(value, list) else [value]
    fitted = [_fit(item, arguments[0]) for item in items] if arguments else items
    return _MISFIT if any(item is _MISFIT for item in fitted) else fitted


def _fit_scalar(value: Any, hint: Any) -> Any:
    if hint is type(None):
        return None if value is None else _MISFIT
    if hint is str:
        return value if isinstance(value, str) else _MISFIT
    if hint is bool:
        return _boolean(value)
    if hint in (int, float):
        return _number(value, hint)
    return _MISFIT


def _boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    switches = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return switches.get(value.lower(), _MISFIT) if isinstance(value, str) else _MISFIT


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _MISFIT
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _MISFIT
    if not math.isfinite(number):
        return _MISFIT
    if kind is int:
        return (value if isinstance(value, int) else int(number)) if number == int(number) else _MISFIT
    return value if isinstance(value, int) else number  # `save_steps: 50` stays 50


def _shown(value: Any) -> str:
    kind = {str: "text", bool: "a boolean", list: "a list", dict: "a mapping", type(None): "null"}.get(type(value))
    text = "null" if value is None else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if kind is None or value is None else f"{text} ({kind})"
