"""A credit rule of your own: one function in one file. It trains, without a change to the package, by

    dgpo train recipes/quickstart.yaml --credit_rule examples/custom_rule.py:surprising --credit_options.strength 0.3

in a TRL script by `DGPOConfig(credit_rule="examples/custom_rule.py:surprising", credit_options={"strength": 0.3})`
(`examples/trl_script.py`), and under verl by `algorithm.dgpo.rule` and `algorithm.dgpo.options.strength`. What a rule
may read, and what it must return: docs/credit-rules.md.
"""

import torch

from dgpo import TokenStats, credit_rule


@credit_rule(reads=())  # it reads nothing of a reference, so that none is loaded
def surprising(stats: TokenStats, *, strength: float = 0.5) -> torch.Tensor:
    """Return more credit for tokens that were improbable: 1 + strength (x / mean x - 1) with x = -log p."""
    mask = stats.completion_mask
    surprise = (1e-6 - stats.logps).masked_fill(~mask, 0.0)
    mean = surprise.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return (1 + strength * (surprise / mean.clamp(min=1e-6) - 1)) * mask
