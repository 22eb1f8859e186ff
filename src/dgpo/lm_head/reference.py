"""Full logits, one line per equation: the oracle that every other implementation is tested against."""

import torch

from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform, statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor


def _log_probs(head: Head, transform: LogitTransform, compute_dtype: torch.dtype) -> Float[Tensor, "N V"]:
    dtype = statistics_dtype(compute_dtype)
    projection = (head.hidden.to(compute_dtype) @ head.weight.to(compute_dtype).T).to(dtype)
    if head.bias is not None:
        projection = projection + head.bias.to(dtype)
    return transform(projection).log_softmax(-1)


def reference_stats(
    policy: Head,
    ref: Head | None,
    targets: Int[Tensor, " N"],
    transform: LogitTransform,
    compute_dtype: torch.dtype,
) -> LMHeadStats:
    """Return the statistics from dense (N, V) log-probabilities, by plain differentiable torch.

    Hellinger is taken as 1/2 sum_v (sqrt p - sqrt q)^2, which does not cancel; in float64 it is the ground truth.

    Args:
        policy: Hidden states (N, H), weight (V, H) and bias (V,) of the policy.
        ref: The same of the reference, or None. No gradient flows to it.
        targets: Token ids, (N,), in [0, V).
        transform: Logit scale, softcap and temperature, applied to both heads.
        compute_dtype: What both projections run in; statistics are float32, or float64 for float64.

    Returns:
        The four statistics; logps and entropy carry gradient to the policy's tensors.
    """
    with torch.autocast(policy.hidden.device.type, enabled=False):
        log_p = _log_probs(policy, transform, compute_dtype)
        logps = log_p.gather(1, targets[:, None])[:, 0]
        # A token of probability 0 adds nothing: 0 * -inf would be nan, backwards too.
        entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
        if ref is None:
            return LMHeadStats(logps, entropy, None, None)
        with torch.no_grad():
            log_q = _log_probs(ref, transform, compute_dtype)
            ref_logps = log_q.gather(1, targets[:, None])[:, 0]
            hellinger_sq = 0.5 * ((0.5 * log_p).exp() - (0.5 * log_q).exp()).square().sum(-1)
        return LMHeadStats(logps, entropy, hellinger_sq, ref_logps)
