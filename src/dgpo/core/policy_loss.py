"""The PPO-clip surrogate with token advantages, unreduced, and the ways to reduce it."""

import math
from typing import Literal

import torch

from dgpo.core.checks import check_advantages, check_mask
from dgpo.core.numbers import check_not_negative, check_positive
from dgpo.tensor_types import Bool, Float, Tensor

Reduction = Literal["token_mean", "sequence_mean", "sum"]


def clipped_policy_loss(
    per_token_logps: Float[Tensor, "B T"],
    old_per_token_logps: Float[Tensor, "B T"],
    advantages: Float[Tensor, "*shape"],
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    completion_mask: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T"]:
    """Return the PPO-clip loss of each token, unreduced.

    L_it = -min(r_it Ahat_it, clip(r_it, 1 - epsilon_low, 1 + epsilon_high) Ahat_it), r_it = exp(logp_it - old logp_it)
    (arXiv:1707.06347; equation 7 of `docs/equations.md`). DGPO adds no KL term.

    Args:
        per_token_logps: Log-probabilities of the sampled tokens under the policy, natural log.
        old_per_token_logps: The same under the policy that sampled; detached here.
        advantages: (B,) for GRPO, (B, T) from `redistribute` for DGPO; detached here.
        epsilon_low: Lower clip width, at least 0.
        epsilon_high: Upper clip width, at least 0 (DAPO: 0.28).
        completion_mask: True where a token is trained. Give it when masked slots may hold nan or inf: they are replaced
            before anything is computed, so that neither the loss nor a gradient sees them.

    Returns:
        Losses (B, T), 0 off the mask. A gradient flows to `per_token_logps` alone, and is 0 where the clip is active.
        Where r overflows, a loss with Ahat >= 0 and its gradient are what they are for every r above the clip (TRL's
        gradient is nan there); with Ahat < 0, which nothing clips from above, the loss is inf.

    Raises:
        ValueError: If shapes differ or a clip width is negative.

    Example:
        >>> import torch
        >>> old = torch.zeros(1, 2)
        >>> logps = torch.log(torch.tensor([[1.5, 1.5]]))
        >>> clipped_policy_loss(logps, old, torch.tensor([[1.0, -1.0]]))    # -min(1.5, 1.2) and -min(-1.5, -1.2)
        tensor([[-1.2000,  1.5000]])
    """
    if per_token_logps.dim() != 2 or per_token_logps.shape != old_per_token_logps.shape:
        raise ValueError(
            f"per_token_logps has shape {tuple(per_token_logps.shape)} and old_per_token_logps"
            f" {tuple(old_per_token_logps.shape)}; both must be the same (B, T)."
        )
    epsilon_low = check_not_negative("epsilon_low", epsilon_low, "The usual value is 0.2.")
    epsilon_high = check_not_negative("epsilon_high", epsilon_high, "The usual values are 0.2 and 0.28.")
    advantages = check_advantages(advantages.detach(), tuple(per_token_logps.shape))
    old_per_token_logps = old_per_token_logps.detach()
    if completion_mask is not None:
        check_mask("per_token_logps", per_token_logps, completion_mask)
        # Replaced here and not multiplied later: 0 * inf is nan, in the forward pass and in its gradient.
        per_token_logps = per_token_logps.masked_fill(~completion_mask, 0.0)
        old_per_token_logps = old_per_token_logps.masked_fill(~completion_mask, 0.0)
        advantages = torch.where(completion_mask, advantages, torch.zeros_like(advantages))
    log_ratio = per_token_logps - old_per_token_logps
    # An infinite ratio is clipped away where Ahat > 0 and multiplied by 0 where Ahat = 0, but 0 * inf is nan, in the
    # latter's value and in the gradient of both. The largest finite one stands for it: it is far above any clip.
    largest = math.log(torch.finfo(log_ratio.dtype).max) - 1
    ratio = torch.where(advantages >= 0, log_ratio.clamp(max=largest), log_ratio).exp()
    most = torch.finfo(ratio.dtype).max  # a wider clip is none
    clipped = ratio.clamp(max(1 - epsilon_low, -most), min(1 + epsilon_high, most))
    return -torch.minimum(ratio * advantages, clipped * advantages)


def aggregate_loss(
    per_token_loss: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    reduction: Reduction = "token_mean",
    normalizer: float | Tensor | None = None,
) -> Float[Tensor, ""]:
    """Return one number from the losses of all trained tokens.

    Args:
        per_token_loss: Unreduced losses; what stands in masked slots is not read.
        completion_mask: True where a token is trained.
        reduction: `"token_mean"` weighs tokens equally (DAPO, TRL's `bnpo` and `dapo`), `"sequence_mean"` completions
            (GRPO's own; a completion with an empty mask counts as 0), `"sum"` only adds.
        normalizer: Divides the sum in place of the count that `reduction` would use: the tokens of the global batch
            (`dapo` over several ranks), or B times the maximum length with `"sum"` (`dr_grpo`).

    Returns:
        A scalar, float32 or wider; its gradient flows to `per_token_loss` where the mask is True and is 0 elsewhere.

    Raises:
        ValueError: If the mask does not fit, `reduction` is unknown, or `normalizer` is not one finite number above 0;
            of a tensor on an accelerator, which would have to be waited for, the value is not looked at.

    Example:
        >>> import torch
        >>> loss, mask = torch.tensor([[1.0, 3.0], [6.0, 9.0]]), torch.tensor([[True, True], [True, False]])
        >>> aggregate_loss(loss, mask).item()    # (1 + 3 + 6) / 3
        3.3333332538604736
        >>> aggregate_loss(loss, mask, reduction="sequence_mean").item()    # ((1 + 3) / 2 + 6) / 2
        4.0
    """
    check_mask("per_token_loss", per_token_loss, completion_mask)
    if normalizer is not None:
        _check_normalizer(normalizer)
    # Half-precision sums overflow at 65,504.
    dtype = torch.promote_types(per_token_loss.dtype, torch.float32)
    trained = torch.where(completion_mask, per_token_loss, torch.zeros_like(per_token_loss)).to(dtype)
    if reduction == "token_mean":
        return trained.sum() / (completion_mask.sum().clamp(min=1) if normalizer is None else normalizer)
    if reduction == "sequence_mean":
        per_completion = trained.sum(-1) / completion_mask.sum(-1).clamp(min=1)
        return per_completion.sum() / (max(len(trained), 1) if normalizer is None else normalizer)
    if reduction == "sum":
        return trained.sum() / (1 if normalizer is None else normalizer)
    raise ValueError(f"reduction must be 'token_mean', 'sequence_mean' or 'sum', got {reduction!r}.")


def _check_normalizer(normalizer: float | Tensor) -> None:
    remedy = "Pass the number of trained tokens, or None for the count of this batch."
    if isinstance(normalizer, Tensor) and normalizer.numel() != 1:
        raise ValueError(f"normalizer has shape {tuple(normalizer.shape)}; it is a single number. {remedy}")
    if not isinstance(normalizer, Tensor) or normalizer.device.type == "cpu":
        check_positive("normalizer", normalizer.item() if isinstance(normalizer, Tensor) else normalizer, remedy)
