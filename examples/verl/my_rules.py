"""A credit rule of one's own in one file; README.md beside it trains with it under verl."""

from dgpo.rules import credit_rule, dgpo


@credit_rule(reads=("hellinger_sq",))
def capped(stats, *, tau=0.5, cap=2.0):
    """Return the paper's weights, cut off at `cap` and divided by their mean."""
    weights = dgpo(stats, tau=tau).clamp(max=cap)
    return weights * stats.completion_mask.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp(min=1e-6)
