"""Functions that score completions, in TRL's form: `fn(completions, answer, **columns)` gives one number each.

A completion is a text or a list of chat messages; `None` marks one that cannot be scored, because its gold answer is
missing or of the wrong kind, and keeps it out of the group's mean.
"""

from dgpo.checked import checked
from dgpo.lab.rewards.completions import completion_text
from dgpo.lab.rewards.exact import exact_match_reward, text_match_reward
from dgpo.lab.rewards.extraction import extract_answer
from dgpo.lab.rewards.format import think_answer_format_reward, think_format_reward
from dgpo.lab.rewards.length import SoftOverlong, soft_overlong_reward
from dgpo.lab.rewards.lint import GoldLint, lint_golds
from dgpo.lab.rewards.math import MathReward, compute_score, math_reward
from dgpo.lab.rewards.numbers import is_number, last_number, last_number_reward, parse_number
from dgpo.lab.rewards.registry import can_score, get_reward, reward_names

__all__ = [
    "GoldLint",
    "MathReward",
    "SoftOverlong",
    "can_score",
    "checked",
    "completion_text",
    "compute_score",
    "exact_match_reward",
    "extract_answer",
    "get_reward",
    "is_number",
    "last_number",
    "last_number_reward",
    "lint_golds",
    "math_reward",
    "parse_number",
    "reward_names",
    "soft_overlong_reward",
    "text_match_reward",
    "think_answer_format_reward",
    "think_format_reward",
]
