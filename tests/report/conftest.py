"""Completions to log and to show."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import browser`

from dgpo.report.credit_log import CompletionCredit, CreditSettings


@pytest.fixture
def settings():
    return CreditSettings(tau=0.5, kappa=1.0, vocab_size=50, engine="trl")


@pytest.fixture
def completion():
    """Makes a completion of the given tokens with figures that differ from token to token."""

    def make(*tokens: str, **changes) -> CompletionCredit:
        count = len(tokens)
        rising = [(index + 1) / (count + 1) for index in range(count)]
        facts = {
            "prompt": "What is 2 + 2?",
            "ids": list(range(count)),
            "tokens": list(tokens),
            "w": [2 * x for x in rising],
            "d": [x / 2 for x in rising],
            "h": rising,
            "s": [x * x / 2 for x in rising],
            "logp": [-x for x in rising],
            "log_ratio": [x - 0.5 for x in rising],
            "advantage": 1.25,
            "reward": 1.0,
            "rewards": {"exact": 1.0},
        }
        return CompletionCredit(**{**facts, **changes})

    return make
