"""The redistribution of DGPO: deviation, gated by entropy, turned into weights with mean 1.

Other credit rules are in `dgpo.rules`.
"""

import math

import torch
import torch.distributed as dist

from dgpo.core.checks import check_advantages, check_mask, check_two_dimensions
from dgpo.core.numbers import check_not_negative, check_positive
from dgpo.core.sequence_parallel import finite_scores, sequence_parallel_weights, temperature_in_range
from dgpo.tensor_types import Bool, Float, Tensor


@torch.no_grad()
def entropy_gate(entropy: Float[Tensor, "*shape"], *, vocab_size: int, kappa: float = 1.0) -> Float[Tensor, "*shape"]:
    """Return the gate of each token: the policy's normalised entropy to the power kappa.

    h^kappa with h = H / log V (arXiv:2605.03327; equation 3 of `docs/equations.md`).

    Args:
        entropy: H in nats, in [0, log V]; rounding outside of that range is clamped.
        vocab_size: V, at least 2.
        kappa: Exponent, at least 0; 0 switches the gate off (every gate is 1).

    Returns:
        Gates in [0, 1], float32 (float64 from float64), no gradient.

    Raises:
        ValueError: If `kappa` is negative or `vocab_size` is below 2.

    Example:
        >>> import math, torch
        >>> entropy_gate(torch.tensor([math.log(4), math.log(2), 0.0]), vocab_size=4, kappa=2)
        tensor([1.0000, 0.2500, 0.0000])
    """
    kappa = check_not_negative("kappa", kappa, "Use 0 for no entropy gate, 1 for the paper's.")
    if vocab_size < 2:
        raise ValueError(
            f"vocab_size is {vocab_size}; entropy is normalised by log(vocab_size), so it must be at least 2. Pass the"
            " number of rows of the LM head, logits.shape[-1]."
        )
    dtype = torch.promote_types(entropy.dtype, torch.float32)
    return (entropy.to(dtype) / math.log(vocab_size)).clamp(0.0, 1.0) ** kappa


@torch.no_grad()
def gated_scores(
    hellinger_sq: Float[Tensor, "B T"],
    entropy: Float[Tensor, "B T"],
    *,
    vocab_size: int,
    kappa: float = 1.0,
) -> Float[Tensor, "B T"]:
    """Return the score of each token: its deviation from the reference, gated by the policy's uncertainty.

    s = d * h^kappa with h = H / log V (arXiv:2605.03327; equations 3 and 4 of `docs/equations.md`).

    Args:
        hellinger_sq: d, the squared Hellinger distances, in [0, 1], any float dtype.
        entropy: H, the policy's entropies in nats, in [0, log V]. Rounding outside of that range is clamped.
        vocab_size: V, the size of the vocabulary that both distributions run over; at least 2.
        kappa: Exponent of the gate. 0 switches the gate off (every gate is 1), larger values trust only the most
            uncertain tokens.

    Returns:
        Scores in [0, 1], float32 (float64 from float64), no gradient. Values of masked slots affect no other slot.

    Raises:
        ValueError: If the shapes differ, `kappa` is negative or `vocab_size` is below 2.

    Example:
        >>> import math, torch
        >>> d, entropy = torch.tensor([[0.2, 0.2]]), torch.tensor([[math.log(4), 0.5 * math.log(4)]])
        >>> gated_scores(d, entropy, vocab_size=4)    # 0.2 * 1 and 0.2 * 1/2
        tensor([[0.2000, 0.1000]])
    """
    if hellinger_sq.shape != entropy.shape:
        raise ValueError(
            f"hellinger_sq has shape {tuple(hellinger_sq.shape)} but entropy has {tuple(entropy.shape)};"
            " both must be (B, T)."
        )
    gate = entropy_gate(entropy, vocab_size=vocab_size, kappa=kappa)
    return hellinger_sq.to(torch.promote_types(hellinger_sq.dtype, gate.dtype)) * gate


@torch.no_grad()
def redistribution_weights(
    scores: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    tau: float = 0.5,
    process_group: dist.ProcessGroup | None = None,
) -> Float[Tensor, "B T"]:
    """Return the share of the completion's advantage that each token gets, as a weight with mean 1.

    w_t = T exp(s_t / tau) / sum_j exp(s_j / tau), over the T trained tokens of the completion (arXiv:2605.03327;
    equation 5 of `docs/equations.md`).

    Args:
        scores: s, of any float dtype; masked slots are not read (they may be nan or inf). Infinite ones count as the
            largest finite number, and a nan makes the weights of its completion nan, on the mask alone.
        completion_mask: True where a token is trained.
        tau: Temperature of the softmax, above 0. Small: few tokens take all the credit. Large: GRPO. Beyond the range
            of the weights' dtype it counts as the nearest number in it.
        process_group: The ranks that the tokens of these completions are split over (sequence parallelism;
            `torch.distributed.group.WORLD` for all ranks), or None for whole completions. Scores and mask are then this
            rank's part: T may differ between ranks and be 0; B, tau and the order of the completions are the same on
            every rank. One all-gather of three numbers a completion, after one that compares the arguments.

    Returns:
        Weights, float32 (float64 from float64), no gradient: mean 1 over the mask of each completion (on all ranks
        together), 0 off it, all 0 where the mask of a completion is empty. Completions of equal scores get weights of
        exactly 1, so that DGPO is then exactly GRPO.

    Raises:
        ValueError: If `tau` is not above 0, or the mask is not boolean or of another shape. With `process_group`, on
            every rank if the arguments of one do not fit, or B or tau differ. Where checking its arguments raises
            another error on a rank (None in place of a tensor), that rank raises it, and the others a ValueError.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> redistribution_weights(torch.tensor([[0.0, 1.0986123, float("nan")]]), mask, tau=1.0)    # e^s = 1, 3
        tensor([[0.5000, 1.5000, 0.0000]])
    """
    if process_group is not None:
        return sequence_parallel_weights(scores, completion_mask, tau, process_group)
    check_mask("scores", scores, completion_mask)
    tau = check_positive("tau", tau, "The paper uses 0.5; larger values come closer to GRPO.")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if scores.shape[1] == 0:  # no column has no maximum
        return torch.zeros_like(scores, dtype=dtype)
    tau = temperature_in_range(tau, dtype)
    masked = finite_scores(scores, completion_mask)
    top = masked.amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).min)
    share = ((masked - top) / tau).exp()
    num_tokens = completion_mask.sum(-1, keepdim=True)
    # n / sum first: equal scores give n / n = 1 exactly, which share / sum * n would not.
    weights = share * (num_tokens / share.sum(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny))
    return weights.masked_fill_(~completion_mask, 0.0)  # where a score of the completion is nan


def redistribute(
    advantages: Float[Tensor, "*shape"],
    weights: Float[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """Return the advantage of each token: that of its completion times the token's weight.

    Ahat_it = A_i w_it (arXiv:2605.03327; equation 6 of `docs/equations.md`).

    Args:
        advantages: A, one per completion (B,) or already one per token (B, T).
        weights: w of `redistribution_weights`.

    Returns:
        Token advantages, in the promoted dtype, no gradient; exactly 0 where the weight is 0, whatever the
        value in `advantages` there.

    Raises:
        ValueError: If the shapes do not fit: nothing is broadcast but (B,) over the tokens.

    Example:
        >>> import torch
        >>> redistribute(torch.tensor([-2.0]), torch.tensor([[0.5, 1.5, 0.0]]))
        tensor([[-1., -3.,  0.]])
    """
    check_two_dimensions("weights", weights)
    per_token = check_advantages(advantages, tuple(weights.shape))
    product = per_token.detach() * weights.detach()
    return torch.where(weights == 0, torch.zeros_like(product), product)
