"""The group advantage of GRPO, which DGPO keeps and redistributes."""

from typing import Literal

import torch

from dgpo.core.checks import power_of_two
from dgpo.core.numbers import check_not_negative
from dgpo.tensor_types import Float, Tensor

Scale = Literal["group", "batch", "none"]


def group_advantages(
    rewards: Float[Tensor, " B"],
    num_generations: int,
    *,
    scale: Scale = "group",
    eps: float = 1e-4,
) -> Float[Tensor, " B"]:
    """Return how much better each completion is than the other completions of its prompt.

    A_i = (r_i - mean(r)) / (std(r) + eps), over the completions of one prompt (GRPO, arXiv:2402.03300; equation 1 of
    `docs/equations.md`). The standard deviation is the unbiased one, as in TRL.

    Args:
        rewards: One reward per completion, any float dtype, the completions of a prompt next to each other. `nan` marks
            a completion that could not be scored: it gets 0 and takes no part in the mean or the deviation. Infinite
            ones are refused on the CPU; on an accelerator, where looking would mean waiting for it, they make the
            advantages of their group nan.
        num_generations: G, the completions per prompt; must divide B.
        scale: `"group"` divides by the deviation of the group, `"batch"` by that of all rewards, `"none"` by nothing
            (Dr. GRPO, arXiv:2503.20783).
        eps: Added to the deviation, at least 0; 0 / 0 is taken as 0.

    Returns:
        Advantages, float32 (float64 from float64 rewards), no gradient. Exactly 0 for a group of equal rewards and for
        a group with fewer than two scored completions.

    Raises:
        ValueError: If `num_generations` is below 2 or does not divide B, `scale` is unknown, `eps` is negative, or a
            reward is infinite.

    Example:
        >>> import torch
        >>> group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2, scale="none")
        tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    _check(rewards, num_generations, scale)
    eps = check_not_negative("eps", eps, "TRL uses 1e-4; 0 divides by the deviation alone.")
    dtype = torch.float64 if rewards.dtype == torch.float64 else torch.float32
    groups = rewards.detach().to(dtype).view(-1, num_generations)
    scored = ~groups.isnan()
    if not len(groups):
        return groups.reshape(-1)
    # Squares of huge or tiny rewards leave the range of the dtype; division by a power of two changes no digit.
    unit = power_of_two(_largest(groups, scored, dim=1 if scale == "group" else None))
    centred = _centred(groups / unit, scored)
    if scale == "group":
        centred = _divided(centred, _deviation(centred, scored) + eps / unit)
    elif scale == "batch":
        every = _centred((groups / unit).reshape(1, -1), scored.reshape(1, -1))
        centred = _divided(centred, _deviation(every, scored.reshape(1, -1)) + eps / unit)
    else:
        centred = centred * unit
    return centred.reshape(-1)


def _check(rewards: Tensor, num_generations: int, scale: str) -> None:
    if rewards.dim() != 1:
        raise ValueError(
            f"rewards must have one dimension (B,), got shape {tuple(rewards.shape)}. Pass rewards.flatten(), with the"
            " completions of a prompt next to each other."
        )
    if num_generations < 2:
        raise ValueError(
            f"num_generations is {num_generations}; a group advantage compares completions, so at least 2 are needed."
        )
    if len(rewards) % num_generations:
        raise ValueError(
            f"{len(rewards)} rewards do not form groups of {num_generations} (num_generations). Pass the number of"
            " completions per prompt, and a reward for each completion: nan for one that could not be scored."
        )
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"scale must be 'group', 'batch' or 'none', got {scale!r}.")
    # Only where it is cheap: on an accelerator the comparison would wait for everything queued before it.
    if rewards.device.type == "cpu" and rewards.isinf().any():
        index = int(rewards.isinf().nonzero()[0])
        raise ValueError(
            f"rewards[{index}] is {float(rewards[index])}, and with it the mean of its group is no finite number. Clip"
            " rewards to a finite range, and pass nan for a completion that could not be scored."
        )


def _divided(centred: Tensor, divisor: Tensor) -> Tensor:
    """Centred rewards over the deviation; 0 stays 0 where there is no deviation and eps is 0."""
    return torch.where(centred == 0, torch.zeros_like(centred), centred / divisor)


def _centred(groups: Tensor, scored: Tensor) -> Tensor:
    """Rewards less their group's mean; exactly 0 where unscored and where all scored rewards are equal."""
    zero = torch.zeros_like(groups)
    mean = torch.where(scored, groups, zero).sum(1, keepdim=True) / scored.sum(1, keepdim=True).clamp(min=1)
    low = torch.where(scored, groups, torch.full_like(groups, torch.inf)).amin(1, keepdim=True)
    high = torch.where(scored, groups, torch.full_like(groups, -torch.inf)).amax(1, keepdim=True)
    # The mean of equal numbers is not always that number in floating point; 1e-9 / eps would not be nothing.
    return torch.where(scored & (high > low), groups - mean, zero)


def _deviation(centred: Tensor, scored: Tensor) -> Tensor:
    """Unbiased standard deviation of centred values over the scored ones of each row."""
    return (centred.square().sum(1, keepdim=True) / (scored.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def _largest(groups: Tensor, scored: Tensor, dim: int | None) -> Tensor:
    """The size of the largest scored reward: of each row, (n, 1), or of all, (1, 1)."""
    sizes = torch.where(scored, groups.abs(), torch.zeros_like(groups))
    # One column more, so that there is a maximum without a reward too.
    largest = torch.nn.functional.pad(sizes, (0, 1)).amax(1, keepdim=True)
    if dim is None:
        largest = torch.nn.functional.pad(largest, (0, 0, 0, 1)).amax(0, keepdim=True)
    return largest
