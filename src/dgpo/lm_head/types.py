"""What the implementations take and give: a head, the way from its projection to logits, and the statistics."""

from typing import NamedTuple

import torch

from dgpo.tensor_types import Float, Tensor


class LMHeadStats(NamedTuple):
    """Statistics of N tokens, each of shape (N,), float32 (float64 where the computation runs in float64).

    Attributes:
        logps: Natural log-probabilities of the targets under the policy, <= 0; carry gradient to hidden, weight, bias.
        entropy: Entropies of the policy in nats, in [0, log V]; carry gradient to hidden, weight, bias.
        hellinger_sq: Squared Hellinger distances between policy and reference, in [0, 1], without gradient; None
            without a reference.
        ref_logps: Log-probabilities of the targets under the reference, without gradient; None without a reference.
    """

    logps: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    hellinger_sq: Float[Tensor, " N"] | None
    ref_logps: Float[Tensor, " N"] | None


class Head(NamedTuple):
    """Hidden states and the head that projects them: hidden @ weight.T + bias."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None


class LogitTransform(NamedTuple):
    """The way from a projection x to the logits the sampler saw: scale, then softcap, then temperature.

    z = x * logit_scale / temperature, or with a softcap c  z = c * tanh(x * logit_scale / c) / temperature.
    Both are `factor * inner(x)` with a positive `factor`, so that inner(x) can be maximised in its place.
    """

    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def factor(self) -> float:
        """The multiplication that is left once `inner` is done; > 0."""
        return (self.logit_scale if self.softcap is None else self.softcap) / self.temperature

    @property
    def slope(self) -> float:
        """dz/dx where the softcap does not bend; elsewhere times 1 - tanh^2."""
        return self.logit_scale / self.temperature

    def inner_(self, projection: Tensor) -> Tensor:
        """Overwrite a projection with the softcap's tanh, or leave it as it is without a softcap."""
        if self.softcap is None:
            return projection
        return projection.mul_(self.logit_scale / self.softcap).tanh_()

    def __call__(self, projection: Tensor) -> Tensor:
        """Return the logits of a projection, differentiably."""
        logits = projection * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / self.temperature


def statistics_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """Return what statistics and gradient sums are kept in: float32, or float64 where the matmuls run in float64."""
    return torch.float64 if compute_dtype == torch.float64 else torch.float32
