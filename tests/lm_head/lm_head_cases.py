"""Heads, hidden states and ways to run them that the tests of the LM head share."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgpo.lm_head.reference import reference_stats
from dgpo.lm_head.running_stats import finalize
from dgpo.lm_head.streamed import Plan, streamed_stats
from dgpo.lm_head.tiles_torch import TORCH_TILES
from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform
from dgpo.lm_head.vocab_parallel import merge_shards, reduce_shard, shard_grads

SMALL = Tiling(rows=16, vocab=100, block=5)
"""Tiles that divide nothing: several of each kind in every case."""


class Case(NamedTuple):
    """Two heads over the same tokens, float64; round with `to`."""

    policy: Head
    ref: Head | None
    targets: Tensor

    def to(self, dtype: torch.dtype, *, grad: bool = False) -> "Case":
        def cast(head: Head | None, needs_grad: bool) -> Head | None:
            if head is None:
                return None
            leaves = (None if x is None else x.detach().to(dtype).requires_grad_(needs_grad) for x in head)
            return Head(*leaves)

        return Case(cast(self.policy, grad), cast(self.ref, False), self.targets)

    def alone(self) -> "Case":
        return self._replace(ref=None)


def make_case(
    n: int, h: int, v: int, *, seed: int = 0, bias: bool = False, ref_h: int | None = None, spread: float = 2.0
) -> Case:
    """Logits of standard deviation about `spread`, the reference a little apart; values that bf16 holds exactly."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).bfloat16().double()

    hidden, weight = normal(n, h), (normal(v, h) * spread * h**-0.5).bfloat16().double()
    if ref_h is None:
        ref_hidden = (hidden + 0.1 * normal(n, h)).bfloat16().double()
        ref_weight = (weight + 0.1 * h**-0.5 * normal(v, h)).bfloat16().double()
    else:
        ref_hidden, ref_weight = normal(n, ref_h), (normal(v, ref_h) * ref_h**-0.5).bfloat16().double()
    biases = (normal(v), normal(v)) if bias else (None, None)
    targets = torch.randint(0, v, (n,), generator=make)
    return Case(Head(hidden, weight, biases[0]), Head(ref_hidden, ref_weight, biases[1]), targets)


def case_of_logits(z: Tensor, y: Tensor, targets: Tensor | None = None) -> Case:
    """Heads that project to exactly these logits: hidden states are unit vectors, -inf goes through the bias."""
    eye = torch.eye(z.shape[0], dtype=torch.float64)

    def head(x: Tensor) -> Head:
        masked = torch.isinf(x).all(0)
        assert not torch.isinf(x[:, ~masked]).any(), "-inf must hold for a whole column"
        bias = torch.zeros(x.shape[1], dtype=torch.float64).masked_fill(masked, -torch.inf)
        return Head(eye, x.double().masked_fill(masked, 0.0).T.contiguous(), bias)

    return Case(head(z), head(y), torch.zeros(z.shape[0], dtype=torch.int64) if targets is None else targets)


def run_reference(case: Case, transform: LogitTransform | None = None) -> LMHeadStats:
    """Full logits in the dtype of the case."""
    return reference_stats(case.policy, case.ref, case.targets, transform or LogitTransform(), case.policy.hidden.dtype)


def run_streamed(
    case: Case, transform: LogitTransform | None = None, tiling: Tiling | None = SMALL, dtype: torch.dtype | None = None
) -> LMHeadStats:
    """Tiles in the dtype of the case, small ones unless told otherwise (None: what the device would get)."""
    dtype = dtype or case.policy.hidden.dtype
    return streamed_stats(case.policy, case.ref, case.targets, transform or LogitTransform(), dtype, tiling)


def gradients(case: Case, stats: LMHeadStats, *upstream: Tensor | None) -> list[Tensor]:
    """Gradients of hidden, weight and (if any) bias of u0 . logps + u1 . entropy."""
    loss = sum((out * u.to(out.dtype)).sum() for out, u in zip(stats, upstream, strict=False) if u is not None)
    return list(torch.autograd.grad(loss, [x for x in case.policy if x is not None]))


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Largest error against the largest entry of the truth."""
    return ((value.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-300)).item()


def rms_error(value: Tensor, truth: Tensor) -> float:
    return (value.double() - truth).square().mean().sqrt().item()


def run_shards(
    case: Case,
    ends: tuple[int, ...],
    upstream: tuple[Tensor, Tensor | None],
    transform: LogitTransform | None = None,
    tiling: Tiling = SMALL,
) -> tuple[LMHeadStats, list[Tensor]]:
    """Statistics and gradients from shards of the vocabulary that end at `ends`, in one process."""
    plan = Plan(transform or LogitTransform(), case.policy.hidden.dtype, tiling, TORCH_TILES)

    def shard(head: Head | None, start: int, end: int) -> Head | None:
        if head is None:
            return None
        return Head(head.hidden, head.weight[start:end], None if head.bias is None else head.bias[start:end])

    spans = list(zip((0, *ends[:-1]), ends, strict=True))
    with torch.no_grad():
        parts = [reduce_shard(shard(case.policy, *s), shard(case.ref, *s), case.targets - s[0], plan) for s in spans]
        whole = merge_shards(parts, ends, case.targets)
        stats = finalize(*whole, ends[-1])
        rows = (stats.logps, stats.entropy, whole.target_logits, whole.state.mz, whole.state.sz.log())
        needed = (True, True, case.policy.bias is not None)
        grads = [
            shard_grads(shard(case.policy, *s), (case.targets - s[0], *rows), upstream, needed, plan) for s in spans
        ]
    hidden = sum(g.hidden for g in grads).to(case.policy.hidden.dtype)
    rest = [torch.cat([g[i] for g in grads]) for i in (1, 2) if needed[i]]
    return stats, [hidden, *rest]
