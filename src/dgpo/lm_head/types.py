"""Types that every implementation shares: a head, the transform of its projections to logits, and the statistics."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from dgpo.tensor_types import Float, Tensor


class LMHeadStats(NamedTuple):
    """Statistics of N tokens, each of shape (N,), float32 (float64 where the computation runs in float64).

    Attributes:
        logps: Natural log-probabilities of the targets under the policy, <= 0; carry gradient to hidden, weight, bias.
        entropy: Entropies of the policy in nats, in [0, log V]; carry gradient to hidden, weight, bias.
        hellinger_sq: Squared Hellinger distances between policy and reference, in [0, 1], without gradient; None
            without a reference.
        ref_logps: Log-probabilities of the targets under the reference, without gradient; None without a reference.
    """

    logps: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    hellinger_sq: Float[Tensor, " N"] | None
    ref_logps: Float[Tensor, " N"] | None


class Head(NamedTuple):
    """Hidden states and the head that projects them: hidden @ weight.T + bias."""

    hidden: Float[Tensor, "N H"]
    weight: Float[Tensor, "V H"]
    bias: Float[Tensor, " V"] | None


@dataclass(frozen=True)
class VocabParallel:
    """How a vocabulary is split over ranks: each has consecutive rows of the head, in the order of the ranks.

    Attributes:
        process_group: The ranks that have the shards; `torch.distributed.group.WORLD` for all ranks.
        reduce_hidden_grad: True: `hidden` receives its whole gradient on every rank, so nothing around the call may
            sum it again. False: this shard's share, for callers who sum themselves (a backward reduce-scatter).

    Raises:
        ValueError: If `process_group` is None, as `torch.distributed.group.WORLD` is before `init_process_group`.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from dgpo.lm_head import lm_head_stats
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)    # torchrun does this
        >>> shard = torch.tensor([[0.98], [0.02]]).log()          # with one rank, the whole head
        >>> hidden, ref_hidden, targets = torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([0])
        >>> split = VocabParallel(dist.group.WORLD)
        >>> stats = lm_head_stats(hidden, shard, targets, ref_hidden=ref_hidden, vocab_parallel=split)
        >>> round(stats.logps.item(), 4), round(stats.hellinger_sq.item(), 4)
        (-0.0202, 0.2)
        >>> dist.destroy_process_group()
    """

    process_group: dist.ProcessGroup | None
    reduce_hidden_grad: bool = True

    def __post_init__(self) -> None:
        if self.process_group is None:
            raise ValueError(
                "process_group is None, as torch.distributed.group.WORLD is before"
                " torch.distributed.init_process_group: call that first, or leave vocab_parallel out for a whole head."
            )


class LogitTransform(NamedTuple):
    """The transform of a projection x to the logits of the sampler: scale, then softcap, then temperature.

    z = x * logit_scale / temperature, or with a softcap c  z = c * tanh(x * logit_scale / c) / temperature.
    Both are `factor * inner(x)` with a positive `factor`, so that inner(x) can be maximised in its place.
    """

    logit_scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    @property
    def factor(self) -> float:
        """What `inner(x)` is multiplied by to give logits; > 0."""
        return (self.logit_scale if self.softcap is None else self.softcap) / self.temperature

    @property
    def slope(self) -> float:
        """dz/dx without a softcap; with one, times 1 - tanh^2."""
        return self.logit_scale / self.temperature

    def inner_(self, projection: Tensor) -> Tensor:
        """Overwrite a projection with tanh(x * logit_scale / softcap); return it unchanged without a softcap."""
        if self.softcap is None:
            return projection
        return projection.mul_(self.logit_scale / self.softcap).tanh_()

    def __call__(self, projection: Tensor) -> Tensor:
        """Return the logits of a projection, differentiably."""
        logits = projection * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / self.temperature


def statistics_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics and gradient sums: float32, or float64 where the products run in float64."""
    return torch.float64 if compute_dtype == torch.float64 else torch.float32
