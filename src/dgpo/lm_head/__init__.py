"""Per-token statistics of one or two LM heads from hidden states, never holding (N, V) logits."""

from dgpo.lm_head.stats import lm_head_stats
from dgpo.lm_head.top_tokens import top_tokens
from dgpo.lm_head.types import LMHeadStats, VocabParallel

__all__ = ["LMHeadStats", "VocabParallel", "lm_head_stats", "top_tokens"]
