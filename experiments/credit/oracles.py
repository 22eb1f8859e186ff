"""Ceilings: rules that read which picks decided the outcome, which no rule of a real training can know.

They are ordinary rules with one argument more, `truth`, which the training loop binds for each batch.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from dgpo import TokenStats, credit_rule
from dgpo.core.weights import floored_weights
from dgpo.rules import CreditRule
from experiments.arms import Arm
from experiments.digests import digest


class OracleStats(NamedTuple):
    """What an oracle reads besides `TokenStats`.

    Attributes:
        causal: 1 or -1 at each pick while the prefix is still right, 0 elsewhere, (B, T).
        num_picks: Picks that a completion has to make, K.
    """

    causal: Tensor
    num_picks: int


@dataclass(frozen=True)
class CreditArm(Arm):
    """An arm of this experiment.

    Attributes:
        ceiling: Whether its rule is an oracle and takes `truth`.
        refresh_every: Rollouts after which the policy becomes its own reference; 0 is never.
        reference_steps: Updates of the reference's own warm-up, a worse model than the policy; 0: as the policy's.
    """

    ceiling: bool = False
    refresh_every: int = 0
    reference_steps: int = 0

    @cached_property
    def credit_rule(self) -> CreditRule:
        """The rule; an oracle's lacks the truth of a batch, so that it cannot be tried on made-up statistics."""
        if not self.ceiling:
            return super().credit_rule
        assert not isinstance(self.rule, str)
        return CreditRule(self.rule.__name__, self.rule, dict(self.options))

    def digest(self) -> str:
        """Return a digest of what the arm does."""
        return digest([super().digest(), self.refresh_every, self.reference_steps])

    def rule_for(self, truth: OracleStats) -> CreditRule:
        """Return the rule for one batch; only an oracle is told the truth about it."""
        rule = self.credit_rule
        return CreditRule(rule.name, rule.function, {**rule.options, "truth": truth}) if self.ceiling else rule


@credit_rule(reads=())
def oracle(stats: TokenStats, *, truth: OracleStats, mix: float) -> Tensor:
    """Return all credit on the picks that caused the outcome, mixed with even weights: (1 - mix) + mix w."""
    mask = stats.completion_mask
    at = (truth.causal != 0).float()
    count, length = at.sum(-1, keepdim=True), mask.sum(-1, keepdim=True)
    # A completion in which nothing was picked has no cause to credit: even weights.
    weights = torch.where(count > 0, at * length / count.clamp(min=1), mask.float())
    return floored_weights(weights, mask, floor=1 - mix)


@credit_rule(reads=(), signed=True)
def signed_oracle(stats: TokenStats, *, truth: OracleStats, mix: float) -> Tensor:
    """Return GRPO's advantages mixed with what each pick truly did: (1 - mix) A + mix c T / K.

    c is 1 or -1 while the prefix is right, T / K makes a right completion's credit add up to T. It teaches in groups of
    equal reward as well, of which no redistribution of the group advantage can make anything.
    """
    return (1 - mix) * _even(stats) + mix * truth.causal * _length(stats) / truth.num_picks


@credit_rule(reads=(), signed=True)
def signed_within_groups(stats: TokenStats, *, truth: OracleStats, mix: float) -> Tensor:
    """Return the signed oracle's advantages where the group advantage is not 0: (1 - mix) A + mix |A| c T / K.

    The best that a redistribution of GRPO's own advantages could do that may also turn their sign.
    """
    sizes = stats.advantages.abs()[:, None]
    return (1 - mix) * _even(stats) + mix * sizes * truth.causal * _length(stats) / truth.num_picks


def _even(stats: TokenStats) -> Tensor:
    return stats.advantages[:, None] * stats.completion_mask


def _length(stats: TokenStats) -> Tensor:
    return stats.completion_mask.sum(-1, keepdim=True)
