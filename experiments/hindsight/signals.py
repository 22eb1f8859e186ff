"""What the arms are told of a rollout: values of prefixes, exact or estimated, and the hinted reference's opinion."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgpo.core import per_token_hellinger_sq
from experiments.credit import layout as language
from experiments.credit.model import Parameters, completion_logits
from experiments.credit.train import Rollout
from experiments.hindsight import hints
from experiments.hindsight.starts import answered_after, fork_width, trace_length

LEAST_VALUE = 0.01
"""Values are kept this far from 0 and 1 before noise is added to their logit."""


class Opinion(NamedTuple):
    """What a model thinks of the completions once it is shown a hint.

    Attributes:
        log_ratio: (S, B, T), log-probability of the tokens with the hint less without; 0 without a hint.
        hellinger_sq: (S, B, T), squared Hellinger distance of the two distributions; likewise.
        tokens: Tokens that were scored for it.
    """

    log_ratio: Tensor
    hellinger_sq: Tensor
    tokens: int


class Values(NamedTuple):
    """Values of the prefixes of a completion at its start and after each pick.

    Attributes:
        at_cuts: (S, B, K + 1); K picks, or as many other places.
        segment: (S, B, T) int64, which of the K + 1 stretches between the cuts a token is in; K after the last one.
        tokens: Tokens that were scored for it.
    """

    at_cuts: Tensor
    segment: Tensor
    tokens: int


def has_right_sibling(rewards: Tensor, copies: int) -> Tensor:
    """Return whether another completion of the same prompt is right.

    Args:
        rewards: (S, B) of 0 and 1, completions of a prompt side by side.
        copies: G.

    Returns:
        (S, B) bool.
    """
    grouped = rewards.view(len(rewards), -1, copies)
    return (grouped.sum(-1, keepdim=True) - grouped > 0).view(rewards.shape)


@torch.no_grad()
def hinted_opinion(
    teacher: Parameters,
    ids: Tensor,
    picks: Tensor,
    has_hint: Tensor,
    rollout: Rollout,
    control: Tensor | None = None,
) -> Opinion:
    """Return what a model thinks of a rollout with a hint, compared with a control.

    Args:
        teacher: The model.
        ids: (S, B, L) prompts of the task, without a slot.
        picks: (S, B, K) ids of the hint.
        has_hint: (S, B) bool; completions without one get 0.
        rollout: The completions, of prompts with an empty slot.
        control: (S, B, K) ids of the hint that it is compared with; None: the empty slot.

    Returns:
        Log-ratio, distance and cost.
    """
    compared = rollout.prompts if control is None else hints.with_hint(ids, control)
    prompts = torch.cat([hints.with_hint(ids, picks), compared], 1)
    told, plain = completion_logits(teacher, prompts, torch.cat([rollout.completions] * 2, 1)).chunk(2, 1)
    where = rollout.mask & has_hint[..., None]
    sampled = rollout.completions[..., None]
    log_ratio = (told.log_softmax(-1).gather(-1, sampled) - plain.log_softmax(-1).gather(-1, sampled))[..., 0]
    zero = torch.zeros_like(log_ratio)
    distance = per_token_hellinger_sq(told, plain)
    return Opinion(torch.where(where, log_ratio, zero), torch.where(where, distance, zero), 2 * int(rollout.mask.sum()))


@torch.no_grad()
def exact_values(logits: Tensor, rollout: Rollout, digits: Tensor) -> Values:
    """Return the probability of a right answer after each prefix, from the policy's own probabilities.

    The product of the probabilities of the right picks that are still to be made; 0 after a wrong pick.

    Args:
        logits: (S, B, T, V) of the policy.
        rollout: The completions.
        digits: (S, B, K, 2), of the prompt of each.

    Returns:
        Values at the start and after each pick.
    """
    num_forks = digits.shape[-2]
    pivot = rollout.roles["pivot"]
    index, segment = _picks_and_segments(pivot, num_forks)
    expected = hints.right_picks(digits)
    right = expected.gather(-1, index)
    logp = logits.log_softmax(-1).gather(-1, right[..., None])[..., 0]
    per_pick = torch.zeros(expected.shape).scatter_add(-1, index, torch.where(pivot, logp, 0.0))
    wrong = torch.zeros(expected.shape).scatter_add(-1, index, (pivot & (rollout.completions != right)).float())
    ahead = per_pick.flip(-1).cumsum(-1).flip(-1)
    to_come = torch.cat([ahead, torch.zeros_like(ahead[..., :1])], -1).exp()
    alive = torch.cat([torch.ones_like(wrong[..., :1]), (wrong.cumsum(-1) == 0).float()], -1)
    return Values(to_come * alive, segment, 0)


def noisy(values: Values, sigma: float, generators: Sequence[torch.Generator], copies: int) -> Values:
    """Return values with noise on their logit; the value of a prompt is the same for all of its completions.

    Args:
        values: Exact ones.
        sigma: Standard deviation of the noise.
        generators: One per seed.
        copies: Completions per prompt.

    Returns:
        Noisy values.
    """
    noise = torch.stack([torch.randn(values.at_cuts.shape[1:], generator=generator) for generator in generators])
    noise[..., 0] = noise[:, ::copies, 0].repeat_interleave(copies, 1)
    logit = values.at_cuts.clamp(LEAST_VALUE, 1 - LEAST_VALUE).logit()
    return values._replace(at_cuts=(logit + sigma * noise).sigmoid())


@torch.no_grad()
def gold_likelihoods(
    parameters: Parameters, layout: language.Layout, rollout: Rollout, digits: Tensor, *, anywhere: bool = False
) -> Values:
    """Return the likelihood of the right answer when the trace is interrupted at its start and after each fork.

    Args:
        parameters: Of a policy that was taught to answer when interrupted.
        layout: What a completion looks like.
        rollout: The completions.
        digits: (S, B, K, 2), of the prompt of each.
        anywhere: After each token of the trace in place of each fork, which takes no knowledge of where forks are.

    Returns:
        Likelihoods in place of values.
    """
    num_forks, every = layout.num_forks, 1 if anywhere else fork_width(layout)
    right = hints.right_picks(digits)
    if anywhere:
        segment = torch.arange(layout.length).clamp(max=trace_length(layout)).expand(rollout.completions.shape)
    else:
        _, segment = _picks_and_segments(rollout.roles["pivot"], num_forks)
    likelihoods, tokens = [], 0
    for cut in range(0, trace_length(layout) + 1, every):
        stubs = answered_after(layout, rollout.completions, torch.full(right.shape[:-1], cut), right)
        logps = completion_logits(parameters, rollout.prompts, stubs).log_softmax(-1)
        said = logps.gather(-1, stubs[..., None])[..., 0]
        first = cut + 1
        likelihoods.append(said[..., first : first + num_forks].sum(-1).exp())
        tokens += stubs[..., : first + num_forks].numel()
    return Values(torch.stack(likelihoods, -1), segment, tokens)


def _picks_and_segments(pivot: Tensor, num_forks: int) -> tuple[Tensor, Tensor]:
    """Which pick each token stands at or after, within range, and how many picks stand before it."""
    seen = pivot.long().cumsum(-1)
    return (seen - 1).clamp(0, num_forks - 1), (seen - pivot.long()).clamp(max=num_forks)
