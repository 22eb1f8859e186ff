"""The paper, equation by equation: pure torch functions without configuration objects or state."""

from dgpo.core.advantages import group_advantages
from dgpo.core.assign import Credit, Rule, RuleTraits, assign_credit, credit_rule, traits_of
from dgpo.core.credit import entropy_gate, gated_scores, redistribute, redistribution_weights
from dgpo.core.divergences import per_token_entropy, per_token_hellinger_sq, per_token_kl
from dgpo.core.hindsight import hindsight_advantages
from dgpo.core.policy_loss import aggregate_loss, clipped_policy_loss
from dgpo.core.token_stats import HINDSIGHT_STATS, REFERENCE_STATS, TokenStats
from dgpo.core.totals import CreditStats, CreditTotals, credit_stats

__all__ = [
    "HINDSIGHT_STATS",
    "REFERENCE_STATS",
    "Credit",
    "CreditStats",
    "CreditTotals",
    "Rule",
    "RuleTraits",
    "TokenStats",
    "aggregate_loss",
    "assign_credit",
    "clipped_policy_loss",
    "credit_rule",
    "credit_stats",
    "entropy_gate",
    "gated_scores",
    "group_advantages",
    "hindsight_advantages",
    "per_token_entropy",
    "per_token_hellinger_sq",
    "per_token_kl",
    "redistribute",
    "redistribution_weights",
    "traits_of",
]
