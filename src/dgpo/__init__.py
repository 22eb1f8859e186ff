"""Distribution-Guided Policy Optimization (arXiv:2605.03327): GRPO's group advantage, redistributed over the tokens.

Importing this package loads nothing. Each public name loads what it needs when it is first used: torch alone, and TRL
for `DGPOConfig`, `DGPOTrainer` and `watch`.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

_HOME = {
    # The one name of the workbench: a door to it, which the method itself does not go through.
    "dgpo.lab.report.notebook": ("show",),
    "dgpo.core": (
        *("Credit", "CreditStats", "TokenStats", "assign_credit", "clipped_policy_loss", "credit_rule", "credit_stats"),
        *("gated_scores", "group_advantages", "per_token_entropy", "per_token_hellinger_sq", "redistribute"),
        "redistribution_weights",
    ),
    "dgpo.lm_head": ("LMHeadStats", "VocabParallel", "lm_head_stats"),
    "dgpo.engines.trl": ("DGPOConfig", "DGPOTrainer", "watch"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

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


def __getattr__(name: str) -> Any:
    """Import the module of a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dgpo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
