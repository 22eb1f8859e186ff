"""Credit by hindsight: what a frozen reference thinks of each token once it is shown a hint to the answer."""

from typing import NamedTuple

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
    agreement: Float[Tensor, " B"] | None = None,
    *,
    mix: float = 0.3,
    clip: float = 2.0,
    floor: float = 0.02,
    min_agreement: float = 0.5,
) -> Float[Tensor, "B T"]:
    """Return the group advantage mixed with what the hint says of each token.

    c_it = clip(i_it, -clip, clip) d_it, s_i its root mean square over the trained tokens of a completion, and

        Ahat_it = (1 - m_i) A_i + m_i c_it / s_i,  m_i = mix min(1, s_i / floor).

    i is the log-ratio at the sampled token of the reference with the hint to the same one with another hint, or with
    none (its sign says whether the token fits the hint), d the squared Hellinger distance of the two distributions
    (which says whether the hint matters there).
    The term has one size in all completions in which the hint says something. Where it says next to nothing (s below
    the floor) it fades, and what is left is GRPO: at one size it would be noise. Where the rewards of the prompt's own
    completions contradict the hint (agreement below `min_agreement`) m is 0: the hint is likelier wrong than they are.

    Args:
        advantages: A, one per completion.
        log_ratio: i = log pi_ref(y | x, hint) - log pi_ref(y | x, other) in nats; 0 throughout one without a hint.
        hellinger_sq: d of the two, in [0, 1]; likewise.
        completion_mask: True where a token is trained.
        agreement: Of the hint with the rewards, one per completion, from `hint_pairs`; nan where nothing is known.
            None: nothing is known of any.
        mix: Share of the hint's term, in [0, 1].
        clip: Largest size of i in nats, above 0.
        floor: Root mean square of c below which the term fades, above 0, in nats.
        min_agreement: Least agreement at which a hint is used, in [0, 1]; 0 uses every hint.

    Returns:
        Token advantages, 0 off the mask. A completion whose term is 0 throughout (it has no hint, or the hint changes
        nothing), or whose hint is contradicted, keeps A, which is GRPO. No gradient.

    Raises:
        ValueError: If shapes do not fit the mask, `mix` or `min_agreement` is outside of [0, 1], or `clip` or `floor`
            is not above 0.

    Example:
        >>> given = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool)
        >>> hindsight_advantages(torch.tensor([2.0]), *given, mix=0.5)    # 1 + .5, 1 - .5
        tensor([[1.5000, 0.5000]])
        >>> hindsight_advantages(torch.tensor([2.0]), *given, mix=0.5, floor=5.0)    # a tenth of the share
        tensor([[1.9500, 1.8500]])
        >>> hindsight_advantages(torch.tensor([2.0]), *given, torch.tensor([0.25]), mix=0.5)    # contradicted
        tensor([[2., 2.]])
    """
    check_mask("hindsight_log_ratio", log_ratio, completion_mask)
    check_mask("hindsight_hellinger_sq", hellinger_sq, completion_mask)
    check_per_completion("advantages", advantages, len(completion_mask))
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}; it is the share of the hint's term, from 0 (GRPO) to 1.")
    if not 0 <= min_agreement <= 1:
        raise ValueError(
            f"min_agreement is {min_agreement}; it is a share of pairs, from 0 (every hint is used) to 1. 0.5 is the"
            " default."
        )
    clip = check_positive("clip", clip, "2 nats is the default.")
    floor = check_positive("floor", floor, "0.02 nats is the default.")
    term = torch.where(completion_mask, log_ratio.clamp(-clip, clip) * hellinger_sq, torch.zeros_like(log_ratio))
    size = (term.square().sum(-1) / completion_mask.sum(-1).clamp(min=1)).sqrt()
    share = mix * (size / floor).clamp(max=1.0)
    mixed = (1 - share)[:, None] * advantages[:, None] + mix * term / size.clamp(min=floor)[:, None]
    if agreement is not None:
        check_per_completion("agreement", agreement, len(completion_mask))
        mixed = torch.where((agreement < min_agreement)[:, None], advantages[:, None], mixed)
    return torch.where(completion_mask, mixed, torch.zeros_like(mixed))


@torch.no_grad()
def hint_totals(
    log_ratio: Float[Tensor, "B T"], hellinger_sq: Float[Tensor, "B T"], completion_mask: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Return how much likelier the hint makes each completion, the sum of i over its trained tokens.

    Args:
        log_ratio: i in nats; 0 throughout a completion without a hint.
        hellinger_sq: d; likewise.
        completion_mask: True where a token is trained.

    Returns:
        In nats, nan for a completion without a hint, which is one whose d is 0 on all trained tokens.

    Example:
        >>> given, mask = torch.tensor([[0.5, -0.2], [0.0, 0.0]]), torch.tensor([[True, True], [True, False]])
        >>> hint_totals(given, given.abs(), mask)
        tensor([0.3000,    nan])
    """
    totals = torch.where(completion_mask, log_ratio, torch.zeros_like(log_ratio)).sum(-1)
    return totals.masked_fill(~_hinted(hellinger_sq, completion_mask), torch.nan)


class HintPairs(NamedTuple):
    """How the hints agree with the rewards; a pair is two hinted completions of a prompt with different rewards.

    Attributes:
        wins: (B,) float, of the pairs in which a completion is the better one, those in which the hint makes it the
            likelier one as well, a tie counting half.
        pairs: (B,) float, all of those pairs.
        agreement: (B,) float in [0, 1], the share of wins among all pairs of the completion's prompt: the AUROC of the
            totals. .5 is chance, and below it the rewards contradict the hint; nan where there is no pair.
    """

    wins: Tensor
    pairs: Tensor
    agreement: Tensor


@torch.no_grad()
def hint_pairs(totals: Float[Tensor, " B"], rewards: Float[Tensor, " B"], group: Int[Tensor, " B"]) -> HintPairs:
    """Return how often the rewards of a prompt's completions agree with its hint.

    Args:
        totals: Of `hint_totals`, nan for a completion without a hint.
        rewards: Of the completions, nan where nothing was scored.
        group: Which prompt each belongs to.

    Returns:
        On the device of the totals. No gradient.

    Example:
        >>> rewards, group = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([5, 5, 5, 3])
        >>> hint_pairs(torch.tensor([0.7, 0.4, 0.2, 0.9]), rewards, group).agreement
        tensor([0.5000, 0.5000, 0.5000,    nan])
    """
    if not len(group):
        return HintPairs(totals, totals, totals)
    _, index, counts = group.unique(return_inverse=True, return_counts=True)
    # A prompt's completions side by side, so that no more numbers are compared than there are pairs within prompts.
    order = index.argsort(stable=True)
    place = torch.arange(len(group), device=group.device) - (counts.cumsum(0) - counts)[index[order]]
    padded = totals.new_full((2, len(counts), int(counts.max())), torch.nan)
    padded[:, index[order], place] = torch.stack([totals, rewards.to(totals)])[:, order]
    total, reward = padded
    one, other = total[:, :, None], total[:, None, :]
    is_pair = (reward[:, :, None] > reward[:, None, :]) & ~one.isnan() & ~other.isnan()
    won = ((one > other).float() + 0.5 * (one == other).float()) * is_pair
    wins, pairs = totals.new_zeros((2, len(group)))
    wins[order], pairs[order] = (x.sum(-1).to(totals)[index[order], place] for x in (won, is_pair))
    return HintPairs(wins, pairs, (won.sum((1, 2)) / is_pair.sum((1, 2))).to(totals)[index])


@torch.no_grad()
def hint_metrics(
    log_ratio: Float[Tensor, "B T"],
    hellinger_sq: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    compared: HintPairs,
) -> dict[str, Tensor]:
    """Return what to log of a rollout's hints, each a sum and a count, (2,).

    `dgpo/hint/share`: of the completions of which a token is trained, those that have a hint.
    `dgpo/hint/hellinger_sq` and `dgpo/hint/log_ratio`: means of d and |i| over their tokens. `dgpo/hint/size`: root
    mean square of i d over a completion, mean over those with a hint; below the rule's `floor` the hint says next to
    nothing. `dgpo/hint/auroc`: how often the better one of two completions of a prompt has the larger sum of i; near .5
    the hint says nothing that the reward does not contradict, and the rule should not be used.
    `dgpo/hint/contradicted`: of the hinted completions whose prompt has such pairs, those where that is below .5.

    Args:
        log_ratio: i; 0 throughout a completion without a hint.
        hellinger_sq: d; likewise.
        completion_mask: True where a token is trained.
        compared: Of `hint_pairs`; rows of a larger batch, if its completions are spread over ranks.

    Returns:
        Name to (sum, count), float32.
    """
    mask, distance = completion_mask, hellinger_sq
    hinted = _hinted(distance, mask)
    tokens = mask & hinted[:, None]
    sizes = ((log_ratio * distance * mask).square().sum(-1) / mask.sum(-1).clamp(min=1)).sqrt()
    return {
        "dgpo/hint/share": _sum_and_count(hinted.float(), mask.any(-1)),
        "dgpo/hint/hellinger_sq": _sum_and_count(distance, tokens),
        "dgpo/hint/log_ratio": _sum_and_count(log_ratio.abs(), tokens),
        "dgpo/hint/size": _sum_and_count(sizes, hinted),
        "dgpo/hint/auroc": torch.stack([compared.wins.sum(), compared.pairs.sum()]),
        "dgpo/hint/contradicted": _sum_and_count(
            (compared.agreement < 0.5).float(), hinted & ~compared.agreement.isnan()
        ),
    }


def _hinted(hellinger_sq: Tensor, completion_mask: Tensor) -> Tensor:
    return ((hellinger_sq != 0) & completion_mask).any(-1)


def _sum_and_count(values: Tensor, where: Tensor) -> Tensor:
    return torch.stack([torch.where(where, values, torch.zeros_like(values)).sum(), where.sum().float()])
