"""Checks that several modules of the core share; each error names the value and the remedy."""

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


def check_per_completion(name: str, values: Tensor, num_completions: int) -> None:
    """Raise if values are not (B,), one a completion: (B, 1) would broadcast to (B, B) elsewhere."""
    if tuple(values.shape) != (num_completions,):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; it must be ({num_completions},), one number for each of the"
            f" {num_completions} completions."
        )


def check_group(group: Tensor, num_completions: int) -> None:
    """Raise if the prompts' numbers are not one whole number a completion; groups may be of any sizes."""
    check_per_completion("group", group, num_completions)
    if group.is_floating_point() or group.is_complex():
        raise ValueError(f"group has dtype {group.dtype}; it numbers the prompts, so pass whole numbers (int64).")


def power_of_two(sizes: Tensor) -> Tensor:
    """Return a power of two of the size of each number: division by it keeps squares in range and changes no digit.

    Args:
        sizes: At least 0, finite.

    Returns:
        1 for 0; not below 2^-100 or above 2^100 in float32, 2^-1000 and 2^1000 in float64.
    """
    limit = 1000 if sizes.dtype == torch.float64 else 100
    exponent = torch.where(sizes > 0, sizes.frexp().exponent, 0).clamp(-limit, limit)
    return torch.ldexp(torch.ones_like(sizes), exponent)


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
