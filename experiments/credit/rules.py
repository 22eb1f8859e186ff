"""The rules that are compared, by name. To try one of your own, add a line to `RULES`.

A rule is a function from the statistics of one batch to weights (B, T) that multiply the advantages, or, for the
signed ceilings, to the token advantages themselves. Rules see one seed's batch, as a trainer would show it to them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dgpo import rules as core
from dgpo.core import gated_scores, redistribution_weights
from dgpo.rules import TokenStatistics


@dataclass(frozen=True)
class Known(TokenStatistics):
    """What an oracle may read besides: which picks caused the outcome.

    Attributes:
        causal: 1 or -1 at each pick while the prefix is still right, 0 elsewhere, (B, T).
        num_picks: Picks that a completion has to make, K.
    """

    causal: Tensor = field(default_factory=lambda: torch.empty(0))
    num_picks: int = 1


@dataclass(frozen=True)
class Rule:
    """One way to credit tokens.

    Attributes:
        fn: From statistics to weights or token advantages.
        signed: Whether it gives token advantages in place of weights.
        ceiling: Whether it knows what no rule can know.
        kl_beta: Of a KL penalty in the loss.
        refresh_every: Rollouts after which the policy becomes its own reference; 0 is never.
    """

    fn: Callable[[Known], Tensor]
    signed: bool = False
    ceiling: bool = False
    kl_beta: float = 0.0
    refresh_every: int = 0


def even(stats: TokenStatistics) -> Tensor:
    """Return weights of 1: GRPO."""
    return stats.completion_mask.float()


def dgpo(tau: float = 0.5, kappa: float = 1.0) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule; with kappa = 0 the deviation alone decides."""
    return lambda stats: redistribution_weights(scores(stats, kappa), stats.completion_mask, tau=tau)


def scores(stats: TokenStatistics, kappa: float = 1.0) -> Tensor:
    """Return the paper's scores d * h ** kappa."""
    return gated_scores(stats.hellinger_sq, stats.entropy, vocab_size=stats.vocab_size, kappa=kappa)


def entropy_only(tau: float) -> Callable[[TokenStatistics], Tensor]:
    """Return the rule whose score is the entropy alone, d = 1 everywhere."""
    return lambda stats: redistribution_weights(
        gated_scores(torch.ones_like(stats.entropy), stats.entropy, vocab_size=stats.vocab_size),
        stats.completion_mask,
        tau=tau,
    )


def kl_scores(tau: float) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule with KL(policy || reference) in place of the Hellinger distance."""
    return lambda stats: redistribution_weights(
        gated_scores(stats.kl, stats.entropy, vocab_size=stats.vocab_size), stats.completion_mask, tau=tau
    )


def inverse(tau: float) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule with the sign of the score turned: less credit where the policy has drifted."""
    return lambda stats: redistribution_weights(-scores(stats), stats.completion_mask, tau=tau)


def one_sided(tau: float, *, positive: bool) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule for completions of one sign of the advantage."""
    return lambda stats: core.one_sided_weights(
        dgpo(tau)(stats), stats.completion_mask, stats.advantages, positive=positive
    )


def capped(tau: float, cap: float) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule with a largest weight."""
    return lambda stats: core.capped_weights(dgpo(tau)(stats), stats.completion_mask, cap=cap)


def floored(tau: float, floor: float) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule with a share of the credit spread evenly."""
    return lambda stats: core.floored_weights(dgpo(tau)(stats), stats.completion_mask, floor=floor)


def share(effective_share: float, kappa: float = 1.0) -> Callable[[TokenStatistics], Tensor]:
    """Return the paper's rule with tau solved for a share of tokens that holds the credit.

    d * h is smaller than d, so that at one tau the gated weights are merely the more even ones: what the gate does
    shows at equal shares, with kappa = 0 beside kappa = 1.
    """
    return lambda stats: core.weights_of_share(
        scores(stats, kappa), stats.completion_mask, effective_share=effective_share
    )


def top_entropy(stats: TokenStatistics) -> Tensor:
    """Return the 80/20 rule."""
    return core.top_entropy_weights(stats.entropy, stats.completion_mask, fraction=0.2)


def gtpo(stats: TokenStatistics) -> Tensor:
    """Return GTPO's entropy shares."""
    return core.group_entropy_weights(
        stats.entropy, stats.completion_mask, stats.advantages, num_generations=stats.num_generations
    )


def fipo(stats: TokenStatistics) -> Tensor:
    """Return FIPO's weights."""
    return core.future_kl_weights(stats.logps, stats.old_logps, stats.completion_mask)


def oracle(mix: float) -> Callable[[Known], Tensor]:
    """Return all credit on the picks that caused the outcome, mixed with even weights: (1 - mix) + mix w."""

    def weights(stats: Known) -> Tensor:
        at = (stats.causal != 0).float()
        count, length = at.sum(-1, keepdim=True), stats.completion_mask.sum(-1, keepdim=True)
        # A completion in which nothing was picked has no cause to credit: even weights.
        w = torch.where(count > 0, at * length / count.clamp(min=1), stats.completion_mask.float())
        return core.floored_weights(w, stats.completion_mask, floor=1 - mix)

    return weights


def signed_oracle(mix: float) -> Callable[[Known], Tensor]:
    """Return GRPO's advantages mixed with what each pick truly did: (1 - mix) A + mix c T / K.

    c is 1 or -1 while the prefix is right, T / K makes a right completion's credit add up to T. It teaches in groups of
    equal reward as well, of which no redistribution of the group advantage can make anything.
    """

    def advantages(stats: Known) -> Tensor:
        length = stats.completion_mask.sum(-1, keepdim=True)
        even_part = stats.advantages[:, None] * stats.completion_mask
        return (1 - mix) * even_part + mix * stats.causal * length / stats.num_picks

    return advantages


def signed_within_groups(mix: float) -> Callable[[Known], Tensor]:
    """Return the signed ceiling where the group advantage is not 0: (1 - mix) A + mix |A| c T / K.

    The best that a redistribution of GRPO's own advantages could do that may also turn their sign.
    """

    def advantages(stats: Known) -> Tensor:
        length = stats.completion_mask.sum(-1, keepdim=True)
        even_part = stats.advantages[:, None] * stats.completion_mask
        return (1 - mix) * even_part + mix * stats.advantages.abs()[:, None] * stats.causal * length / stats.num_picks

    return advantages


RULES: dict[str, Rule] = {
    "grpo": Rule(even),
    "grpo+kl": Rule(even, kl_beta=0.04),
    "oracle": Rule(oracle(1.0), ceiling=True),
    "oracle mixed .5": Rule(oracle(0.5), ceiling=True),
    "oracle mixed .2": Rule(oracle(0.2), ceiling=True),
    "signed oracle": Rule(signed_oracle(1.0), signed=True, ceiling=True),
    "signed oracle mixed .5": Rule(signed_oracle(0.5), signed=True, ceiling=True),
    "signed oracle mixed .2": Rule(signed_oracle(0.2), signed=True, ceiling=True),
    "signed in groups mixed .2": Rule(signed_within_groups(0.2), signed=True, ceiling=True),
    "signed in groups mixed .5": Rule(signed_within_groups(0.5), signed=True, ceiling=True),
    "dgpo tau=1": Rule(dgpo(1.0)),
    "dgpo tau=.5": Rule(dgpo(0.5)),
    "dgpo tau=.1": Rule(dgpo(0.1)),
    "dgpo tau=.05": Rule(dgpo(0.05)),
    "dgpo tau=.1 kappa=.5": Rule(dgpo(0.1, 0.5)),
    "dgpo tau=.1 kappa=2": Rule(dgpo(0.1, 2.0)),
    "deviation only tau=.5": Rule(dgpo(0.5, 0.0)),
    "deviation only tau=.1": Rule(dgpo(0.1, 0.0)),
    "entropy only tau=.5": Rule(entropy_only(0.5)),
    "entropy only tau=.1": Rule(entropy_only(0.1)),
    "kl scores tau=.5": Rule(kl_scores(0.5)),
    "kl scores tau=.1": Rule(kl_scores(0.1)),
    "inverse tau=.1": Rule(inverse(0.1)),
    "inverse tau=.05": Rule(inverse(0.05)),
    "positive only tau=.1": Rule(one_sided(0.1, positive=True)),
    "negative only tau=.1": Rule(one_sided(0.1, positive=False)),
    "capped 2 tau=.05": Rule(capped(0.05, 2.0)),
    "floored .7 tau=.05": Rule(floored(0.05, 0.7)),
    "refreshed 20 tau=.1": Rule(dgpo(0.1), refresh_every=20),
    "share 97 %": Rule(share(0.97)),
    "share 80 %": Rule(share(0.8)),
    "share 50 %": Rule(share(0.5)),
    "ungated share 97 %": Rule(share(0.97, 0.0)),
    "ungated share 80 %": Rule(share(0.8, 0.0)),
    "ungated share 50 %": Rule(share(0.5, 0.0)),
    "top 20 % entropy": Rule(top_entropy),
    "gtpo": Rule(gtpo),
    "fipo": Rule(fipo),
}
