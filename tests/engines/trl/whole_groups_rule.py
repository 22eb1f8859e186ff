"""A rule that compares the completions of a prompt, for tests."""

import torch

from dgpo import TokenStats, credit_rule


@credit_rule(reads=(), whole_groups=True)
def group_size(stats: TokenStats) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return weights of 1, and how many completions of its prompt a completion is seen with."""
    mask = stats.completion_mask
    size = (stats.group[:, None] == stats.group).sum(-1)
    return mask.float(), {"size": size[:, None].expand(mask.shape)}
