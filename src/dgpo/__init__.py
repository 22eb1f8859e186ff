"""Distribution-Guided Policy Optimization (arXiv:2605.03327): GRPO's group advantage, redistributed over the tokens.

Importing this package loads torch and nothing heavier; `DGPOConfig` and `DGPOTrainer` load TRL when first used.
"""

from typing import TYPE_CHECKING, Any

from dgpo.core import (
    CreditStats,
    clipped_policy_loss,
    credit_stats,
    gated_scores,
    group_advantages,
    per_token_entropy,
    per_token_hellinger_sq,
    redistribute,
    redistribution_weights,
    sequence_parallel_weights,
)
from dgpo.lm_head import LMHeadStats, lm_head_stats, sharded_lm_head_stats
from dgpo.versions import __version__

if TYPE_CHECKING:
    from dgpo.engines.trl import DGPOConfig, DGPOTrainer

__all__ = [
    "CreditStats",
    "DGPOConfig",
    "DGPOTrainer",
    "LMHeadStats",
    "__version__",
    "clipped_policy_loss",
    "credit_stats",
    "gated_scores",
    "group_advantages",
    "lm_head_stats",
    "per_token_entropy",
    "per_token_hellinger_sq",
    "redistribute",
    "redistribution_weights",
    "sequence_parallel_weights",
    "sharded_lm_head_stats",
]


def __getattr__(name: str) -> Any:
    """Load the TRL engine when one of its two public names is asked for."""
    if name in ("DGPOConfig", "DGPOTrainer"):
        from dgpo.engines import trl

        return getattr(trl, name)
    raise AttributeError(f"module 'dgpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
