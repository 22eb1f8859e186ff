"""Rules that tests name by this file's path."""

import torch

from dgpo.rules import credit_rule


@credit_rule(reads=("kl",))
def kl_share(stats):
    return torch.ones_like(stats.entropy) * stats.completion_mask


@credit_rule(reads=(), signed=True)
def signed_share(stats):
    """Twice the advantage where the entropy is within bounds, and -1 elsewhere."""
    within = (stats.entropy > 0.15) & (stats.entropy < 0.35)
    return torch.where(within, 2 * stats.advantages[:, None], -1.0)


@credit_rule(reads=())
def with_columns(stats):
    """Weights of 1, and the number of each token."""
    return stats.completion_mask.float(), {
        "place": torch.arange(1.0, stats.entropy.size(1) + 1).expand_as(stats.entropy)
    }
