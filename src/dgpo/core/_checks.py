"""Checks that several modules of the core share; each says what was wrong and what to pass instead."""

import math

import torch

from dgpo._typing import Tensor


def check_mask(name: str, values: Tensor, completion_mask: Tensor) -> None:
    """Refuse a mask that is not boolean or not of the shape of `values`: a (B, 1) mask would broadcast silently."""
    if completion_mask.dtype is not torch.bool:
        raise ValueError(
            f"completion_mask has dtype {completion_mask.dtype}; it must be torch.bool with True where a token is"
            " trained. Pass completion_mask.bool()."
        )
    if values.dim() != 2:
        raise ValueError(f"{name} must have two dimensions (B, T), got shape {tuple(values.shape)}.")
    if completion_mask.shape != values.shape:
        raise ValueError(
            f"completion_mask has shape {tuple(completion_mask.shape)} but {name} has {tuple(values.shape)}. They must"
            " be equal: nothing is broadcast, so that a (B, 1) mask cannot pass unseen."
        )


def check_positive(name: str, value: float, remedy: str) -> None:
    """Refuse a value that is not a finite number above 0."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}. {remedy}")


def check_not_negative(name: str, value: float, remedy: str) -> None:
    """Refuse a value that is not a finite number of at least 0."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}. {remedy}")


def check_advantages(advantages: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return advantages of shape (B,) as (B, 1) and leave (B, T) as it is; refuse everything else."""
    if advantages.dim() == 1 and advantages.shape[0] == shape[0]:
        return advantages[:, None]
    if tuple(advantages.shape) == tuple(shape):
        return advantages
    raise ValueError(
        f"advantages has shape {tuple(advantages.shape)}; with {shape[0]} completions of {shape[1]} tokens it must be"
        f" ({shape[0]},) or ({shape[0]}, {shape[1]})."
    )
