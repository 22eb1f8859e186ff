"""Functions of tensors that `dgpo.rules` makes credit rules of, besides the paper's softmax; for your own rules too."""

import math

import torch

from dgpo.core.checks import check_group, check_mask, check_per_completion
from dgpo.core.credit import redistribution_weights
from dgpo.core.numbers import check_positive
from dgpo.tensor_types import Bool, Float, Int, Tensor


@torch.no_grad()
def floored_weights(
    weights: Float[Tensor, "B T"], completion_mask: Bool[Tensor, "B T"], *, floor: float
) -> Float[Tensor, "B T"]:
    """Return weights mixed with even ones, so that no token is starved: floor + (1 - floor) w.

    Args:
        weights: Weights with mean 1 over the mask of each row.
        completion_mask: True where a token is trained.
        floor: Share that is spread evenly, in [0, 1]; 1 is GRPO.

    Returns:
        Weights with mean 1 over the mask, none below `floor`, 0 off the mask; no gradient.

    Raises:
        ValueError: If `floor` is outside of [0, 1].

    Example:
        >>> floored_weights(torch.tensor([[0.0, 2.0]]), torch.tensor([[True, True]]), floor=0.25)
        tensor([[0.2500, 1.7500]])
    """
    check_mask("weights", weights, completion_mask)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}; it is a share of the credit, from 0 to 1.")
    return torch.where(completion_mask, floor + (1 - floor) * weights, torch.zeros_like(weights))


@torch.no_grad()
def capped_weights(
    weights: Float[Tensor, "B T"], completion_mask: Bool[Tensor, "B T"], *, cap: float
) -> Float[Tensor, "B T"]:
    """Return weights of which none is above `cap`; what is cut off is spread evenly over all tokens of the row.

    Cut off and spread once: w' = min(w, c) + mean(w - min(w, c)) with c chosen so that no w' exceeds `cap`, by
    bisection.

    Args:
        weights: Weights with mean 1 over the mask of each row.
        completion_mask: True where a token is trained.
        cap: Largest weight, above 1.

    Returns:
        Weights with mean 1 over the mask, 0 off it; no gradient.

    Raises:
        ValueError: If `cap` is not above 1.

    Example:
        >>> capped_weights(torch.tensor([[0.0, 0.5, 2.5]]), torch.tensor([[True] * 3]), cap=2.0)    # c = 1.75
        tensor([[0.2500, 0.7500, 2.0000]])
    """
    check_mask("weights", weights, completion_mask)
    if not cap > 1:
        raise ValueError(f"cap is {cap}; weights have mean 1, so the largest allowed must be above 1.")
    kept = torch.where(completion_mask, weights, torch.zeros_like(weights)).double()
    count = completion_mask.sum(-1, keepdim=True).clamp(min=1)
    low, high = torch.zeros_like(count, dtype=kept.dtype), torch.full_like(count, cap, dtype=kept.dtype)
    for _ in range(40):
        cut = (low + high) / 2
        spread = (kept - kept.clamp(max=cut)).sum(-1, keepdim=True) / count
        too_high = cut + spread > cap
        low, high = torch.where(too_high, low, cut), torch.where(too_high, cut, high)
    cut = kept.clamp(max=high)
    spread = (kept - cut).sum(-1, keepdim=True) / count
    return torch.where(completion_mask, cut + spread, torch.zeros_like(kept)).to(weights.dtype)


@torch.no_grad()
def one_sided_weights(
    weights: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    *,
    positive: bool,
) -> Float[Tensor, "B T"]:
    """Return the weights for completions of one sign of the advantage, and 1 for the others.

    Args:
        weights: Weights with mean 1 over the mask of each row.
        completion_mask: True where a token is trained.
        advantages: A, one per completion.
        positive: Redistribute the credit of completions with A > 0; otherwise the blame of those with A < 0.

    Returns:
        Weights with mean 1 over the mask, 0 off it; no gradient.

    Example:
        >>> weights, mask = torch.tensor([[0.5, 1.5]] * 2), torch.ones(2, 2, dtype=torch.bool)
        >>> one_sided_weights(weights, mask, torch.tensor([1.0, -1.0]), positive=True)
        tensor([[0.5000, 1.5000],
                [1.0000, 1.0000]])
    """
    check_mask("weights", weights, completion_mask)
    check_per_completion("advantages", advantages, len(weights))
    chosen = advantages > 0 if positive else advantages < 0
    return torch.where(chosen[:, None], weights, completion_mask.to(weights.dtype))


@torch.no_grad()
def effective_share_weights(
    scores: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    effective_share: float,
) -> Float[Tensor, "B T"]:
    """Return the paper's weights at the tau for which the batch's mean effective share ESS / T is as asked for.

    Scores differ between tasks and grow while training, so that one tau is inert here and collapses there; the share
    of tokens that hold the credit is what one means by it. tau is solved by bisection of its logarithm.

    Args:
        scores: s, any finite numbers on the mask.
        completion_mask: True where a token is trained.
        effective_share: Target for the mean over completions of (sum w)^2 / (T sum w^2), in (0, 1].

    Returns:
        Weights of `redistribution_weights`; all 1 where the scores are equal (d = 0 before the first update).

    Raises:
        ValueError: If the target is outside of (0, 1], or a score on the mask is not finite.

    Example:
        >>> w = effective_share_weights(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]]), effective_share=0.8)
        >>> w    # 1/2 (0.5 + 1.5)^2 / (0.25 + 2.25) = 0.8
        tensor([[0.5000, 1.5000]])
    """
    check_mask("scores", scores, completion_mask)
    if not 0 < effective_share <= 1:
        raise ValueError(f"effective_share is {effective_share}; it is the share of tokens, above 0 up to 1.")
    kept = scores.masked_fill(~completion_mask, 0.0)
    count = completion_mask.sum(-1).clamp(min=1)
    trained = completion_mask.any(-1)
    held = scores[completion_mask]
    spread = float(held.amax() - held.amin()) if len(held) else 0.0
    if spread == math.inf:  # of scores at both ends of the dtype, or of infinite ones
        spread = float(held.amax().double() - held.amin().double())
    if not math.isfinite(spread):
        raise ValueError("scores hold nan or inf for a trained token; no tau gives them an effective share.")
    if not spread > 1e-7:
        return completion_mask.to(torch.promote_types(scores.dtype, torch.float32))
    low, high = math.log(spread / 100), math.log(spread * 100)
    for _ in range(30):
        middle = (low + high) / 2
        weights = redistribution_weights(kept, completion_mask, tau=math.exp(middle))
        share = (count / weights.square().sum(-1).clamp(min=1e-12))[trained].mean()
        low, high = (middle, high) if share < effective_share else (low, middle)
    return redistribution_weights(kept, completion_mask, tau=math.exp(high))


@torch.no_grad()
def top_entropy_weights(
    entropy: Float[Tensor, "B T"], completion_mask: Bool[Tensor, "B T"], *, fraction: float = 0.2
) -> Float[Tensor, "B T"]:
    """Return 1 for the batch's most uncertain tokens and 0 for the others ("80/20", arXiv:2506.01939).

    Args:
        entropy: H of the policy in nats.
        completion_mask: True where a token is trained.
        fraction: Share of the trained tokens that is kept, in (0, 1].

    Returns:
        Weights of 0 and 1 (nan where an entropy is not finite), so that unlike the others of this module their mean is
        `fraction` (above it where entropies are equal): a loss that averages over all trained tokens, as
        `aggregate_loss` does, is `fraction` of the mean over the kept ones; divided by their mean it is that mean.

    Raises:
        ValueError: If `fraction` is outside of (0, 1].

    Example:
        >>> top_entropy_weights(torch.tensor([[0.1, 0.9, 0.2, 0.5]]), torch.ones(1, 4, dtype=torch.bool), fraction=0.5)
        tensor([[0., 1., 0., 1.]])
    """
    check_mask("entropy", entropy, completion_mask)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it is the share of tokens that is trained, above 0 up to 1.")
    weights = torch.zeros_like(entropy, dtype=torch.promote_types(entropy.dtype, torch.float32))
    trained = entropy[completion_mask]
    if len(trained):
        count = max(1, round(fraction * len(trained)))
        bound = trained.topk(count).values[-1]
        chosen = (trained >= bound).to(weights.dtype)
        weights[completion_mask] = chosen.masked_fill(~trained.isfinite(), torch.nan)
    return weights


@torch.no_grad()
def group_entropy_weights(
    entropy: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    *,
    group: Int[Tensor, " B"],
    bonus: float = 0.5,
) -> Float[Tensor, "B T"]:
    """Return entropy shares over the completions of a group at the same position (after GTPO, arXiv:2508.04349).

    w_it = 1 - bonus + bonus n_t H_it / sum_k H_kt over the n_t completions k of the group with the same sign of the
    advantage that have a token t; for negative ones 1 / H takes the place of H, so that certain mistakes are blamed.

    Args:
        entropy: H of the policy in nats.
        completion_mask: True where a token is trained.
        advantages: A, one per completion.
        group: Which prompt each completion belongs to, any int64 ids, in any order.
        bonus: Share of the credit that is redistributed, in [0, 1].

    Returns:
        Weights with mean 1 over the completions of one sign at each position, 0 off the mask, float32 (float64 from
        float64). GTPO itself adds the bonus to the rewards and normalises these once more; that part is left out.

    Raises:
        ValueError: If `bonus` is outside of [0, 1], or advantages or groups are not one a completion.

    Example:
        >>> entropy, mask = torch.tensor([[1.0], [3.0]]), torch.ones(2, 1, dtype=torch.bool)
        >>> group_entropy_weights(entropy, mask, torch.tensor([1.0, 1.0]), group=torch.tensor([0, 0])).flatten()
        tensor([0.7500, 1.2500])
    """
    check_mask("entropy", entropy, completion_mask)
    if not 0 <= bonus <= 1:
        raise ValueError(f"bonus is {bonus}; it is a share of the credit, from 0 to 1.")
    check_per_completion("advantages", advantages, len(entropy))
    check_group(group, len(entropy))
    positive = (advantages > 0)[:, None]
    # Half-precision sums overflow at 65,504.
    entropy = entropy.to(torch.promote_types(entropy.dtype, torch.float32))
    safe = entropy.masked_fill(~completion_mask, 1.0).clamp(min=1e-3)
    signal = torch.where(positive, safe, 1 / safe)
    index = group.unique(return_inverse=True)[1]
    weights = torch.zeros_like(signal)
    for same_sign in (completion_mask & positive, completion_mask & ~positive):
        alive = same_sign.to(signal.dtype)
        counts, sums = (torch.zeros_like(x).index_add(0, index, x)[index] for x in (alive, signal * alive))
        share = signal * counts / sums.clamp(min=1e-12)
        weights = torch.where(same_sign, 1 - bonus + bonus * share, weights)
    return weights


@torch.no_grad()
def future_kl_weights(
    logps: Float[Tensor, "B T"],
    old_logps: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    gamma: float = 0.95,
    low: float = 0.8,
    high: float = 1.2,
) -> Float[Tensor, "B T"]:
    """Return clip(exp(sum_{k >= t} gamma^(k - t) (logp_k - old logp_k)), low, high) (FIPO, arXiv:2603.19835).

    It is 1 everywhere at the first update after a rollout, when both policies are the same: only with several updates
    per rollout does it differ from GRPO.

    Args:
        logps: Of the sampled tokens under the policy.
        old_logps: Under the policy that sampled.
        completion_mask: True where a token is trained.
        gamma: Discount per token, in [0, 1].
        low: Smallest weight, above 0.
        high: Largest weight, at least `low`.

    Returns:
        Weights in [low, high], 0 off the mask; no gradient. Their mean need not be 1.

    Raises:
        ValueError: If `gamma` is outside of [0, 1], `low` is not positive or `high` below it.

    Example:
        >>> logps, old = torch.tensor([[0.0, 0.1]]), torch.tensor([[0.0, 0.0]])
        >>> future_kl_weights(logps, old, torch.tensor([[True, True]]), gamma=0.5)    # exp(0.05), exp(0.1)
        tensor([[1.0513, 1.1052]])
    """
    check_mask("logps", logps, completion_mask)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}; it is a discount per token, from 0 to 1.")
    low = check_positive("low", low, "FIPO's weights are between 0.8 and 1.2.")
    high = check_positive("high", high, "FIPO's weights are between 0.8 and 1.2.")
    if high < low:
        raise ValueError(f"high is {high} and low is {low}; the largest weight cannot be below the smallest.")
    change = torch.where(completion_mask, logps - old_logps, torch.zeros_like(logps))
    summed = torch.zeros_like(change)
    latest = change.new_zeros(len(change))
    for position in reversed(range(change.shape[1])):
        latest = change[:, position] + gamma * latest
        summed[:, position] = latest
    return torch.where(completion_mask, summed.exp().clamp(low, high), torch.zeros_like(summed))
