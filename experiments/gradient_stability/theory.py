"""The gradient that one sampled token sends into its logits, in closed form, beside the loss it is the gradient of.

Notation: the policy p = softmax(z), the reference q, the sampled token y, e_y its one-hot vector.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgpo.core import gated_scores, per_token_entropy, per_token_hellinger_sq, per_token_kl, redistribution_weights

Loss = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Term:
    """Something that a training may add to, or put in place of, the surrogate.

    Attributes:
        label: In tables and figures.
        formula: Its gradient with respect to the logits, as text.
        loss: (z, log q, y) to a scalar, for autograd.
        gradient: (p, q, y) to the gradient (V,), in closed form.
        bound: What its norm cannot exceed, as text.
    """

    label: str
    formula: str
    loss: Loss
    gradient: Callable[[Tensor, Tensor, int], Tensor]
    bound: str


def _log_p(logits: Tensor, token: int) -> Tensor:
    return F.log_softmax(logits, -1)[token]


def _k3(logits: Tensor, ref_logps: Tensor, token: int) -> Tensor:
    log_ratio = ref_logps[token] - _log_p(logits, token)
    return log_ratio.exp() - log_ratio - 1


def _k1_in_reward(logits: Tensor, ref_logps: Tensor, token: int) -> Tensor:
    logp = _log_p(logits, token)
    return (logp - ref_logps[token]).detach() * logp


def _k2(logits: Tensor, ref_logps: Tensor, token: int) -> Tensor:
    return 0.5 * (_log_p(logits, token) - ref_logps[token]).square()


def _forward_kl(logits: Tensor, ref_logps: Tensor, token: int) -> Tensor:
    return (ref_logps.exp() * (ref_logps - F.log_softmax(logits, -1))).sum()


def _toward(p: Tensor, token: int) -> Tensor:
    """e_y - p, the gradient of log p(y)."""
    return F.one_hot(torch.tensor(token), len(p)).to(p) - p


def _reverse_kl_gradient(p: Tensor, q: Tensor, token: int) -> Tensor:
    log_ratio = p.log() - q.log()
    return p * (log_ratio - (p * log_ratio).sum())


def _hellinger_gradient(p: Tensor, q: Tensor, token: int) -> Tensor:
    overlap = (p * q).sqrt()
    return -0.5 * (overlap - p * overlap.sum())


TERMS: Mapping[str, Term] = {
    "surrogate": Term(
        "GRPO, A = 1",
        "-A (e_y - p)",
        lambda z, ref, y: -_log_p(z, y),
        lambda p, q, y: -_toward(p, y),
        "sqrt(2) abs(A)",
    ),
    "k3": Term(
        "k3 in the loss (TRL, GRPO's paper)",
        "(1 - q_y / p_y) (e_y - p)",
        _k3,
        lambda p, q, y: (1 - q[y] / p[y]) * _toward(p, y),
        "none; grows as q_y / p_y",
    ),
    "k1_in_reward": Term(
        "k1 in the reward, or k2 in the loss",
        "log(p_y / q_y) (e_y - p)",
        _k1_in_reward,
        lambda p, q, y: (p[y] / q[y]).log() * _toward(p, y),
        "none; grows as log(1 / q_y)",
    ),
    "reverse_kl": Term(
        "KL(p, q) over the vocabulary",
        "p (log(p / q) - KL)",
        lambda z, ref, y: per_token_kl(z, ref),
        _reverse_kl_gradient,
        "none; grows as log(1 / q_y)",
    ),
    "forward_kl": Term("KL(q, p) over the vocabulary", "p - q", _forward_kl, lambda p, q, y: p - q, "sqrt(2)"),
    "hellinger": Term(
        "Hellinger distance as a penalty",
        "-(sqrt(p q) - p sum sqrt(p q)) / 2",
        lambda z, ref, y: per_token_hellinger_sq(z, ref),
        _hellinger_gradient,
        "1",
    ),
}
"""The terms compared; `k2` of the loss has the gradient of `k1` in the reward."""


def largest_weight(num_tokens: int, tau: float) -> float:
    """Return the largest weight that a token can get: w = T e^(1/tau) / (e^(1/tau) + T - 1) <= min(T, e^(1/tau)).

    Scores lie in [0, 1], so the extreme is one token with score 1 among T - 1 tokens with score 0.

    Args:
        num_tokens: T.
        tau: Temperature.

    Returns:
        The bound, whatever policy and reference are.

    Example:
        >>> round(largest_weight(30, 0.5), 2), round(largest_weight(1000, 0.5), 2), round(largest_weight(1000, 0.05))
        (6.09, 7.34, 1000)
    """
    return num_tokens / (1 + (num_tokens - 1) * math.exp(-1 / tau))


def pair_with(policy_probability: float, reference_probability: float, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return p and q that give token 0 these probabilities and share the rest out evenly.

    Args:
        policy_probability: p_y.
        reference_probability: q_y.
        vocab_size: V.

    Returns:
        Two distributions (V,), float64.
    """
    pair = []
    for own in (policy_probability, reference_probability):
        rest = torch.full((vocab_size,), (1 - own) / (vocab_size - 1), dtype=torch.float64)
        rest[0] = own
        pair.append(rest)
    return pair[0], pair[1]


def norms(policy_probability: float, reference_probability: float, *, vocab_size: int = 100) -> dict[str, float]:
    """Return the norm of every term's gradient with respect to the logits, for one sampled token.

    Args:
        policy_probability: p_y.
        reference_probability: q_y.
        vocab_size: V.

    Returns:
        Norm per name of `TERMS`, penalties without their factor beta; and `dgpo_tau0.5`, `dgpo_tau0.05`: the surrogate
        with the token's weight, in a completion of 1000 tokens of which all others agree with the reference.

    Example:
        >>> by_term = norms(0.25, 1e-8)
        >>> {name: round(by_term[name], 2) for name in ("k3", "k1_in_reward", "reverse_kl", "dgpo_tau0.5")}
        {'k3': 0.75, 'k1_in_reward': 12.84, 'reverse_kl': 3.26, 'dgpo_tau0.5': 0.95}
    """
    p, q = pair_with(policy_probability, reference_probability, vocab_size)
    by_term = {name: term.gradient(p, q, 0).norm().item() for name, term in TERMS.items()}
    for tau in (0.5, 0.05):
        by_term[f"dgpo_tau{tau}"] = by_term["surrogate"] * weight_of(p, q, tau=tau, num_tokens=1000)
    return by_term


def weight_of(p: Tensor, q: Tensor, *, tau: float, num_tokens: int) -> float:
    """Return the weight of a token with these distributions among tokens whose score is 0.

    Args:
        p: Policy (V,).
        q: Reference (V,).
        tau: Temperature.
        num_tokens: T.

    Returns:
        w.
    """
    distance, entropy = per_token_hellinger_sq(p.log(), q.log()), per_token_entropy(p.log())
    scores = torch.zeros(1, num_tokens, dtype=torch.float64)
    scores[0, 0] = gated_scores(distance.view(1, 1), entropy.view(1, 1), vocab_size=len(p))
    return redistribution_weights(scores, torch.ones_like(scores, dtype=torch.bool), tau=tau)[0, 0].item()


REFERENCE_SWEEP = tuple(10.0**-k for k in range(1, 17))
"""q_y, at p_y = 0.25."""
POLICY_SWEEP = tuple(10.0**-k for k in range(1, 9))
"""p_y, at q_y = 0.25."""


def sweeps() -> dict[str, Any]:
    """Return the norms along both sweeps.

    Returns:
        `reference` and `policy`: lists of the swept probability with the norms.
    """
    return {
        "reference": [{"probability": q, **norms(0.25, q)} for q in REFERENCE_SWEEP],
        "policy": [{"probability": p, **norms(p, 0.25)} for p in POLICY_SWEEP],
    }
