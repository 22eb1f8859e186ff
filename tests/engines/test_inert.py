"""The notice of even weights names the rule, and advises what that rule has."""

import math

import pytest

from dgpo.core import CreditStats
from dgpo.engines.inert import InertMonitor


def even_weights(score_max):
    return CreditStats(10, 1, 1.0, 0.0, 1.0, 1.0, score_max, score_max, inert=True)


@pytest.mark.parametrize(
    ("options", "score_max", "parts"),
    [
        ({"tau": 0.5, "kappa": 1.0}, 2e-3, ("DGPO has been inert for 2 steps", "tau is 0.5", "(now 1)")),
        ({"tau": 0.5, "kappa": 0.0}, 2e-3, ("DGPO has been inert", "times one of score 0.")),
        ({"tau": 0.5, "rule": "mine.py:capped"}, 2e-3, ("The credit rule mine.py:capped has been inert", "tau is 0.5")),
        ({"kappa": 1.0, "rule": "effective_share"}, 2e-3, ("credit rule effective_share", "by the rule's options")),
        ({"tau": 0.5, "kappa": 1.0, "rule": "entropy"}, math.nan, ("credit rule entropy", "by the rule's options")),
        ({"tau": 0.5, "kappa": 1.0}, 0.0, ("still equal to its reference",)),
    ],
)
def test_the_notice_fits_the_rule(options, score_max, parts):
    monitor = InertMonitor(patience=2, **options)
    assert monitor.update(even_weights(score_max), 1, 1) is None
    notice = monitor.update(even_weights(score_max), 2, 2)
    for part in parts:
        assert part in notice
    assert monitor.update(even_weights(score_max), 3, 3) is None  # once
