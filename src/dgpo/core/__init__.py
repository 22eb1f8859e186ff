"""The paper, equation by equation: pure torch functions without configuration objects or state.

Each name loads its module when it is first used: what a rule says of itself is known without torch.
"""

from typing import TYPE_CHECKING

from dgpo.names import lazy_names

if TYPE_CHECKING:
    from dgpo.core.advantages import group_advantages
    from dgpo.core.assign import Credit, Rule, RuleResult, assign_credit
    from dgpo.core.credit import entropy_gate, gated_scores, redistribute, redistribution_weights
    from dgpo.core.divergences import per_token_entropy, per_token_hellinger_sq, per_token_kl
    from dgpo.core.hindsight import hindsight_advantages
    from dgpo.core.policy_loss import aggregate_loss, clipped_policy_loss
    from dgpo.core.rule_traits import RuleTraits, credit_rule, traits_of
    from dgpo.core.token_stats import HINDSIGHT_STATS, REFERENCE_STATS, TokenStats
    from dgpo.core.totals import CreditStats, CreditTotals, credit_stats
    from dgpo.core.weights import (
        capped_weights,
        effective_share_weights,
        floored_weights,
        future_kl_weights,
        group_entropy_weights,
        one_sided_weights,
        top_entropy_weights,
    )

__getattr__ = lazy_names(
    __name__,
    {
        "dgpo.core.advantages": ("group_advantages",),
        "dgpo.core.assign": ("Credit", "Rule", "RuleResult", "assign_credit"),
        "dgpo.core.credit": ("entropy_gate", "gated_scores", "redistribute", "redistribution_weights"),
        "dgpo.core.divergences": ("per_token_entropy", "per_token_hellinger_sq", "per_token_kl"),
        "dgpo.core.hindsight": ("hindsight_advantages",),
        "dgpo.core.policy_loss": ("aggregate_loss", "clipped_policy_loss"),
        "dgpo.core.rule_traits": ("RuleTraits", "credit_rule", "traits_of"),
        "dgpo.core.token_stats": ("HINDSIGHT_STATS", "REFERENCE_STATS", "TokenStats"),
        "dgpo.core.totals": ("CreditStats", "CreditTotals", "credit_stats"),
        "dgpo.core.weights": (
            "capped_weights",
            "effective_share_weights",
            "floored_weights",
            "future_kl_weights",
            "group_entropy_weights",
            "one_sided_weights",
            "top_entropy_weights",
        ),
    },
)

__all__ = [
    "HINDSIGHT_STATS",
    "REFERENCE_STATS",
    "Credit",
    "CreditStats",
    "CreditTotals",
    "Rule",
    "RuleResult",
    "RuleTraits",
    "TokenStats",
    "aggregate_loss",
    "assign_credit",
    "capped_weights",
    "clipped_policy_loss",
    "credit_rule",
    "credit_stats",
    "effective_share_weights",
    "entropy_gate",
    "floored_weights",
    "future_kl_weights",
    "gated_scores",
    "group_advantages",
    "group_entropy_weights",
    "hindsight_advantages",
    "one_sided_weights",
    "per_token_entropy",
    "per_token_hellinger_sq",
    "per_token_kl",
    "redistribute",
    "redistribution_weights",
    "top_entropy_weights",
    "traits_of",
]
