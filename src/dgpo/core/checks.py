"""Checks that several modules of the core share; each error names the value and the remedy."""

import math
from typing import SupportsFloat

import torch

from dgpo.tensor_types import Tensor


def check_mask(name: str, values: Tensor, completion_mask: Tensor) -> None:
    """Raise if a mask is not boolean or not of the shape of `values`: a (B, 1) mask would broadcast silently."""
    if completion_mask.dtype is not torch.bool:
        raise ValueError(
            f"completion_mask has dtype {completion_mask.dtype}; it must be torch.bool with True where a token is"
            " trained. Pass completion_mask.bool()."
        )
    check_two_dimensions(name, values)
    if completion_mask.shape != values.shape:
        raise ValueError(
            f"completion_mask has shape {tuple(completion_mask.shape)} but {name} has {tuple(values.shape)}. They must"
            " be equal: nothing is broadcast, so that a (B, 1) mask cannot pass unseen."
        )


def check_two_dimensions(name: str, values: Tensor) -> None:
    """Raise if per-token values are not (B, T)."""
    if values.dim() != 2:
        raise ValueError(
            f"{name} must have two dimensions (B, T), got shape {tuple(values.shape)}. Pass one row per completion and"
            " one column per token: x[None] for a single completion."
        )


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


def check_advantages(advantages: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return advantages of shape (B,) as (B, 1) and (B, T) unchanged; raise for any other shape."""
    if advantages.dim() == 1 and advantages.shape[0] == shape[0]:
        return advantages[:, None]
    if tuple(advantages.shape) == tuple(shape):
        return advantages
    raise ValueError(
        f"advantages has shape {tuple(advantages.shape)}; with {shape[0]} completions of {shape[1]} tokens it must be"
        f" ({shape[0]},) or ({shape[0]}, {shape[1]})."
    )
