"""Credit by hindsight: what a frozen reference thinks of each token once it is shown a hint to the answer."""

import torch

from dgpo.core.checks import check_group, check_mask, check_per_completion, check_positive, power_of_two
from dgpo.tensor_types import Bool, Float, Int, Tensor


@torch.no_grad()
def hindsight_advantages(
    advantages: Float[Tensor, " B"],
    log_ratio: Float[Tensor, "B T"],
    hellinger_sq: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    group: Int[Tensor, " B"],
    mix: float = 0.3,
    clip: float = 2.0,
) -> Float[Tensor, "B T"]:
    """Return the group advantage mixed with what the hint says of each token.

    Ahat_it = (1 - mix) A_i + mix c_it / rms(c), c_it = clip(i_it, -clip, clip) d_it, and the root mean square over the
    trained tokens of the completions of the same prompt that have a hint. i is the log-ratio of the hinted to the plain
    reference at the sampled token (its sign says whether the token fits the hint), d the squared Hellinger distance of
    the two distributions (which says whether the hint matters there).

    Args:
        advantages: A, one per completion.
        log_ratio: i = log pi_ref(y | x, hint) - log pi_ref(y | x) in nats; 0 throughout a completion without a hint.
        hellinger_sq: d of the hinted and the plain reference, in [0, 1]; likewise.
        completion_mask: True where a token is trained.
        group: Which prompt each completion belongs to, any int64 ids, in any order.
        mix: Share of the hint's term, in [0, 1].
        clip: Largest size of i in nats, above 0.

    Returns:
        Token advantages, 0 off the mask. A completion whose term is 0 throughout (it has no hint, or the hint changes
        nothing) keeps A, which is GRPO. No gradient.

    Raises:
        ValueError: If shapes do not fit the mask, `mix` is outside of [0, 1] or `clip` is not above 0.

    Example:
        >>> given = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.5]]), torch.ones(1, 2, dtype=torch.bool)
        >>> hindsight_advantages(torch.tensor([2.0]), *given, group=torch.tensor([0]), mix=0.5)    # 1 + .5, 1 - .5
        tensor([[1.5000, 0.5000]])
    """
    check_mask("hindsight_log_ratio", log_ratio, completion_mask)
    check_mask("hindsight_hellinger_sq", hellinger_sq, completion_mask)
    check_per_completion("advantages", advantages, len(completion_mask))
    check_group(group, len(completion_mask))
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is {mix}; it is the share of the hint's term, from 0 (GRPO) to 1.")
    clip = check_positive("clip", clip, "2 nats is the default.")
    term = torch.where(completion_mask, log_ratio.clamp(-clip, clip) * hellinger_sq, torch.zeros_like(log_ratio))
    has_hint = (term != 0).any(-1)
    index = group.unique(return_inverse=True)[1]
    # The squares of tiny terms would be 0, and what is left of their rms make huge advantages of them.
    largest = torch.nn.functional.pad(term.abs(), (0, 1)).amax(-1)
    unit = power_of_two(torch.zeros_like(largest).scatter_reduce(0, index, largest, "amax")[index])
    term = term / unit[:, None]
    counts = completion_mask.sum(-1) * has_hint
    squares, tokens = (
        torch.zeros(len(index), dtype=term.dtype, device=term.device).index_add(0, index, values.to(term.dtype))[index]
        for values in (term.square().sum(-1), counts)
    )
    scale = (squares / tokens.clamp(min=1)).sqrt().clamp(min=torch.finfo(term.dtype).tiny)
    share = torch.where(has_hint, mix, 0.0)[:, None]
    mixed = (1 - share) * advantages[:, None] + share * term / scale[:, None]
    return torch.where(completion_mask, mixed, torch.zeros_like(mixed))
