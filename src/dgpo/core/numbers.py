"""Checks of single numbers, without torch: what a setting or an option of a rule may be."""

import math
from typing import SupportsFloat


def check_positive(name: str, value: float, remedy: str) -> float:
    """Return a number as a float; raise if it is not a finite number above 0."""
    number = _number(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}. {remedy}")
    return number


def check_not_negative(name: str, value: float, remedy: str) -> float:
    """Return a number as a float; raise if it is not a finite number of at least 0."""
    number = _number(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}. {remedy}")
    return number


def _number(value: object) -> float:
    """Return a real number of any library as a float, and nan for everything else, booleans and strings included."""
    is_bool = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if is_bool or not isinstance(value, SupportsFloat):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array of several, an integer beyond float
        return math.nan
