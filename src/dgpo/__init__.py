"""Distribution-Guided Policy Optimization (arXiv:2605.03327): GRPO's group advantage, redistributed over the tokens.

Importing this package loads nothing. Each public name loads what it needs when it is first used: torch alone, and TRL
for `DGPOConfig`, `DGPOTrainer` and `watch`.
"""

from typing import TYPE_CHECKING

from dgpo.names import lazy_names
from dgpo.versions import __version__

if TYPE_CHECKING:
    from dgpo.core import (
        Credit,
        CreditStats,
        TokenStats,
        assign_credit,
        clipped_policy_loss,
        credit_rule,
        credit_stats,
        gated_scores,
        group_advantages,
        per_token_entropy,
        per_token_hellinger_sq,
        redistribute,
        redistribution_weights,
    )
    from dgpo.engines.trl import DGPOConfig, DGPOTrainer, watch
    from dgpo.lm_head import LMHeadStats, VocabParallel, lm_head_stats

__getattr__ = lazy_names(
    __name__,
    {
        # The one name of the workbench: a door to it, which the method itself does not go through.
        "dgpo.lab.report.notebook": ("show",),
        "dgpo.core": (
            *(
                "Credit",
                "CreditStats",
                "TokenStats",
                "assign_credit",
                "clipped_policy_loss",
                "credit_rule",
                "credit_stats",
            ),
            *("gated_scores", "group_advantages", "per_token_entropy", "per_token_hellinger_sq", "redistribute"),
            "redistribution_weights",
        ),
        "dgpo.lm_head": ("LMHeadStats", "VocabParallel", "lm_head_stats"),
        "dgpo.engines.trl": ("DGPOConfig", "DGPOTrainer", "watch"),
    },
)

__all__ = [
    "Credit",
    "CreditStats",
    "DGPOConfig",
    "DGPOTrainer",
    "LMHeadStats",
    "TokenStats",
    "VocabParallel",
    "__version__",
    "assign_credit",
    "clipped_policy_loss",
    "credit_rule",
    "credit_stats",
    "gated_scores",
    "group_advantages",
    "lm_head_stats",
    "per_token_entropy",
    "per_token_hellinger_sq",
    "redistribute",
    "redistribution_weights",
    "show",
    "watch",
]


def __dir__() -> list[str]:
    return sorted(__all__)
