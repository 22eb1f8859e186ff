"""A slot for a hint in the prompt of the forks task: the picks of an answer, or nothing."""

import torch
from torch import Tensor

from experiments.credit import layout as language

EMPTY = language.BAR


def slot_length(num_forks: int) -> int:
    """Return the tokens that the slot adds to a prompt: a pick for each pair, and a bar on either side."""
    return num_forks + 2


def with_hint(ids: Tensor, picks: Tensor) -> Tensor:
    """Return prompts with picks in the slot.

    Args:
        ids: (..., L), of `layout.prompt_ids`.
        picks: (..., K) ids.

    Returns:
        (..., L + K + 2) ids.
    """
    bar = torch.full_like(ids[..., :1], EMPTY)
    return torch.cat([ids, bar, picks, bar], -1)


def without_hint(ids: Tensor, num_forks: int) -> Tensor:
    """Return prompts with an empty slot, (..., L + K + 2) ids."""
    return with_hint(ids, torch.full((*ids.shape[:-1], num_forks), EMPTY))


def right_picks(digits: Tensor) -> Tensor:
    """Return the ids of the right answer, (..., K), of digits (..., K, 2)."""
    return digits.amax(-1) + language.DIGIT


def wrong_picks(digits: Tensor) -> Tensor:
    """Return the ids of the answer in which every pick is wrong, (..., K)."""
    return digits.amin(-1) + language.DIGIT


def partly(right: Tensor, wrong: Tensor, share_right: float, generator: torch.Generator) -> Tensor:
    """Return picks of which each is right with a probability.

    Args:
        right: (..., K) ids.
        wrong: (..., K) ids.
        share_right: The probability.
        generator: The source of randomness.

    Returns:
        (..., K) ids.
    """
    return torch.where(torch.rand(right.shape, generator=generator) < share_right, right, wrong)
