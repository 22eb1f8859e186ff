"""How far two next-token distributions are apart, from full logits: the plain form that everything else is tested by.

Training never calls these on a real vocabulary: `dgpo.lm_head` computes the same numbers without holding logits.
"""

import torch

from dgpo.tensor_types import Float, Tensor


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, or in float64 where the logits are float64."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.to(dtype).log_softmax(-1)


def _check_pair(logits: Tensor, ref_logits: Tensor) -> None:
    if logits.shape != ref_logits.shape:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} but ref_logits has {tuple(ref_logits.shape)}. The policy and its"
            " reference must score the same tokens over the same vocabulary; use a reference with the same tokenizer."
        )


def per_token_hellinger_sq(
    logits: Float[Tensor, "*shape V"], ref_logits: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """Return the squared Hellinger distance between policy and reference over the whole vocabulary.

    d = 1 - sum_v sqrt(p(v) q(v)) = 1/2 sum_v (sqrt p(v) - sqrt q(v))^2   (arXiv:2605.03327; the paper says
    "Hellinger distance", its formula is the square). The second form is used: no cancellation where p and q are close,
    never negative, exactly 0 for equal logits.

    Args:
        logits: The policy's logits, any float dtype, natural scale (divide by the temperature beforehand).
        ref_logits: The reference's logits, the same shape.

    Returns:
        Distances in [0, 1], float32 (float64 from float64 logits). A gradient flows to both arguments; DGPO's weights
        are built from the detached value.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> equal = torch.log(torch.tensor([0.5, 0.5]))
        >>> per_token_hellinger_sq(equal, equal).item()
        0.0
        >>> other = torch.log(torch.tensor([0.98, 0.02]))    # 1 - (sqrt(.49) + sqrt(.01)) = 1 - (.7 + .1)
        >>> round(per_token_hellinger_sq(equal, other).item(), 6)
        0.2
    """
    _check_pair(logits, ref_logits)
    sqrt_p = (0.5 * _log_softmax(logits)).exp()
    sqrt_q = (0.5 * _log_softmax(ref_logits)).exp()
    return (0.5 * (sqrt_p - sqrt_q).square().sum(-1)).clamp(max=1.0)


def per_token_kl(logits: Float[Tensor, "*shape V"], ref_logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """Return KL(policy || reference) over the whole vocabulary, in nats: what a KL penalty would be built from.

    KL = sum_v p(v) (log p(v) - log q(v)). Unlike the Hellinger distance it has no upper bound, and it is infinite where
    the reference gives no probability to something the policy may say.

    Args:
        logits: The policy's logits, any float dtype.
        ref_logits: The reference's logits, the same shape.

    Returns:
        Divergences in [0, inf], float32 (float64 from float64 logits). A gradient flows to both arguments.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> round(per_token_kl(p.log(), q.log()).item(), 4)    # .5 log 2 + .5 log(2/3)
        0.1438
    """
    _check_pair(logits, ref_logits)
    log_p, log_q = _log_softmax(logits), _log_softmax(ref_logits)
    p = log_p.exp()
    # A token the policy never says adds nothing: 0 * (-inf - x) would be nan, backwards too.
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1).clamp(min=0.0)


def per_token_entropy(logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """Return the Shannon entropy of each next-token distribution, in nats.

    H = - sum_v p(v) log p(v).

    Args:
        logits: Logits of any float dtype.

    Returns:
        Entropies in [0, log V], float32 (float64 from float64 logits). A gradient flows to `logits`.

    Example:
        >>> import torch
        >>> round(per_token_entropy(torch.zeros(4)).item(), 4)    # log 4
        1.3863
    """
    log_p = _log_softmax(logits)
    p = log_p.exp()
    # A token of probability 0 adds nothing: 0 * -inf would be nan, backwards too.
    return -(p * log_p.masked_fill(p == 0, 0.0)).sum(-1).clamp(max=0.0)
