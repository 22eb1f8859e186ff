"""Credit by hindsight: what a frozen reference thinks of each token once it is shown a hint to the answer."""

import torch

from dgpo.core.checks import check_mask, check_per_completion
from dgpo.core.numbers import check_positive
from dgpo.tensor_types import Bool, Float, Int, Tensor


@torch.no_grad()
def hindsight_advantages(
    advantages: Float[Tensor, " B"],
    log_ratio: Float[Tensor, "B T"],
    hellinger_sq: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    mix: float = 0.3,
    clip: float = 2.0,
    floor: float = 0.02,
) -> Float[Tensor, "B T"]:
    """Return the group advantage mixed with what the hint says of each token.

    c_it = clip(i_it, -clip, clip) d_it, s_i its root mean square over the trained tokens of a completion, and

        Ahat_it = (1 - m_i) A_i + m_i c_it / s_i,  m_i = mix min(1, s_i / floor).

    i is the log-ratio at the sampled token of the reference with the hint to the same one with another hint, or with
    none (its sign says whether the token fits the hint), d the squared Hellinger distance of the two distributions
    (which says whether the hint matters there).
    The term has one size in all completions in which the hint says something. Where it says next to nothing (s below
    the floor) it fades, and what is left is GRPO: at one size it would be noise.

    Args:
        advantages: A, one per completion.
        log_ratio: i = log pi_ref(y | x, hint) - log pi_ref(y | x, other) in nats; 0 throughout one without a hint.
        hellinger_sq: d of the two, in [0, 1]; likewise.
        completion_mask: True where a token is trained.
        mix: Share of the hint's term, in [0, 1].
        clip: Largest size of i in nats, above 0.
        floor: Root mean square of c below which the term fades, above 0, in nats.

    Returns:
        Token advantages, 0 off the mask. A completion whose term is 0 throughout (it has no hint, or the hint changes
        nothing) keeps A, which is GRPO. No gradient.

    Raises:
        ValueError: If shapes do not fit the mask, `mix` is outside of [0, 1], or `clip` or `floor` is not above 0.

    Example:
        >>> given = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool)
        >>> hindsight_advantages(torch.tensor([2.0]), *given, mix=0.5)    # 1 + .5, 1 - .5
        tensor([[1.5000, 0.5000]])
        >>> hindsight_advantages(torch.tensor([2.0]), *given, mix=0.5, floor=5.0)    # a tenth of the share
        tensor([[1.9500, 1.8500]])
    """
    check_mask("hindsight_log_ratio", log_ratio, completion_mask)
    check_mask("hindsight_hellinger_sq", hellinger_sq, completion_mask)
    check_per_completion("advantages", advantages, len(completion_mask))
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}; it is the share of the hint's term, from 0 (GRPO) to 1.")
    clip = check_positive("clip", clip, "2 nats is the default.")
    floor = check_positive("floor", floor, "0.02 nats is the default.")
    term = torch.where(completion_mask, log_ratio.clamp(-clip, clip) * hellinger_sq, torch.zeros_like(log_ratio))
    size = (term.square().sum(-1) / completion_mask.sum(-1).clamp(min=1)).sqrt()
    share = mix * (size / floor).clamp(max=1.0)
    mixed = (1 - share)[:, None] * advantages[:, None] + mix * term / size.clamp(min=floor)[:, None]
    return torch.where(completion_mask, mixed, torch.zeros_like(mixed))


@torch.no_grad()
def hint_metrics(
    log_ratio: Float[Tensor, "B T"],
    hellinger_sq: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    rewards: Float[Tensor, " B"],
    group: Int[Tensor, " B"],
) -> dict[str, Tensor]:
    """Return what to log of a rollout's hints, each a sum and a count, (2,).

    `dgpo/hint/share`: completions that have a hint. `dgpo/hint/hellinger_sq` and `dgpo/hint/log_ratio`: means of d and
    |i| over their tokens. `dgpo/hint/size`: root mean square of i d over a completion, mean over those with a hint;
    below the rule's `floor` the hint says next to nothing. `dgpo/hint/auroc`: how often the better one of two
    completions of a prompt has the larger sum of i; near .5 the hint says nothing that the reward does not contradict,
    and the rule should not be used.

    Args:
        log_ratio: i; 0 throughout a completion without a hint.
        hellinger_sq: d; likewise.
        completion_mask: True where a token is trained.
        rewards: Of the completions, nan where nothing was scored.
        group: Which prompt each belongs to.

    Returns:
        Name to (sum, count), float32.
    """
    mask, distance = completion_mask, hellinger_sq
    hinted = (distance != 0).any(-1)
    tokens = mask & hinted[:, None]
    totals = (log_ratio * mask).sum(-1)
    sizes = ((log_ratio * distance * mask).square().sum(-1) / mask.sum(-1).clamp(min=1)).sqrt()
    pairs = (group[:, None] == group) & (rewards[:, None] > rewards) & hinted[:, None] & hinted
    wins = (totals[:, None] > totals).float() + 0.5 * (totals[:, None] == totals).float()
    return {
        "dgpo/hint/share": _sum_and_count(hinted.float(), torch.ones_like(hinted)),
        "dgpo/hint/hellinger_sq": _sum_and_count(distance, tokens),
        "dgpo/hint/log_ratio": _sum_and_count(log_ratio.abs(), tokens),
        "dgpo/hint/size": _sum_and_count(sizes, hinted),
        "dgpo/hint/auroc": _sum_and_count(wins, pairs),
    }


def _sum_and_count(values: Tensor, where: Tensor) -> Tensor:
    return torch.stack([torch.where(where, values, torch.zeros_like(values)).sum(), where.sum().float()])
