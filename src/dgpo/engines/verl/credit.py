"""From the statistics of a credit pass to token advantages: padded tensors of one batch, on the trainer's process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dgpo.core.credit import entropy_gate, gated_scores, redistribute, redistribution_weights
from dgpo.core.totals import CreditTotals
from dgpo.engines.verl.config import DGPOSettings
from dgpo.errors import TrainingError


@dataclass(frozen=True)
class BatchCredit:
    """The credit of one batch; rows of padding have weights, and so advantages, of 0.

    Attributes:
        advantages: (B, T) float32, the completion's advantage times the token's weight.
        weights: (B, T) float32, w, mean 1 over the trained tokens of a row.
        scores: (B, T) float32, s.
        totals: For metrics and the inert notice.
    """

    advantages: Tensor
    weights: Tensor
    scores: Tensor
    totals: CreditTotals


def credit_of_batch(
    advantages: Tensor,
    response_mask: Tensor,
    *,
    hellinger_sq: Tensor,
    entropy: Tensor,
    log_probs: Tensor,
    ref_log_probs: Tensor,
    vocab_size: int,
    settings: DGPOSettings,
) -> BatchCredit:
    """Return the token advantages of a batch.

    Args:
        advantages: (B, T), one value a row wherever the mask is set, as verl's outcome estimators give it.
        response_mask: (B, T) bool, True where a token is trained. Other slots are not read.
        hellinger_sq: (B, T), d in [0, 1].
        entropy: (B, T), H in nats.
        log_probs: (B, T), of the policy that sampled.
        ref_log_probs: (B, T), of the reference.
        vocab_size: V.
        settings: tau and kappa.

    Returns:
        Advantages, weights, scores and totals. No gradient.

    Raises:
        TrainingError: If a statistic of a trained token is not finite.

    Example:
        >>> import math, torch
        >>> found = credit_of_batch(
        ...     torch.tensor([[2.0, 2.0]]),
        ...     torch.tensor([[True, True]]),
        ...     hellinger_sq=torch.tensor([[0.0, 1.0]]),
        ...     entropy=torch.full((1, 2), math.log(4)),
        ...     log_probs=torch.zeros(1, 2),
        ...     ref_log_probs=torch.zeros(1, 2),
        ...     vocab_size=4,
        ...     settings=DGPOSettings(tau=1 / math.log(3)),
        ... )
        >>> found.advantages    # e^(s / tau) = 1, 3: weights 0.5 and 1.5
        tensor([[1.0000, 3.0000]])
    """
    per_token = {
        "hellinger_sq": hellinger_sq,
        "entropy": entropy,
        "log_probs": log_probs,
        "ref_log_probs": ref_log_probs,
    }
    for name, values in per_token.items():
        bad = int((~torch.isfinite(values[response_mask])).sum())
        if bad:
            raise TrainingError(
                f"{name} of {bad} trained tokens is not finite; no weight could be trusted, so the run stops before the"
                " update. Usual causes: a learning rate that is too high, fp16 overflow (use bf16), or a model whose"
                " weights were nan from the start."
            )
    gate = entropy_gate(entropy, vocab_size=vocab_size, kappa=settings.kappa)
    scores = gated_scores(hellinger_sq, entropy, vocab_size=vocab_size, kappa=settings.kappa)
    weights = redistribution_weights(scores, response_mask, tau=settings.tau)
    log_ratio = ref_log_probs - log_probs
    totals = CreditTotals.of(
        weights,
        scores,
        response_mask,
        hellinger_sq=hellinger_sq,
        entropy_gate=gate,
        kl=log_ratio.exp() - log_ratio - 1,
    )
    return BatchCredit(redistribute(advantages, weights), weights, scores, totals)
