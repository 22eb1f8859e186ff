"""Statistics of a head whose vocabulary is split over the ranks of a process group (tensor parallelism).

Every rank reduces its shard to a state of `running_stats`, with the logits of the targets it has: 8 numbers a token.
These are all-gathered and merged like tiles, in the order of the ranks, so that every rank has the same statistics to
the last bit. Backward, each rank computes the gradients of its own shard; those of hidden are summed over the ranks.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from dgpo.core.ranks import check_process_group, compare_calls, device_of, gather_ranks
from dgpo.lm_head.arguments import (
    autocast_dtype,
    check_heads,
    check_targets_range,
    check_targets_shape,
    check_transform,
)
from dgpo.lm_head.dispatch import choose_tile_ops
from dgpo.lm_head.running_stats import PairState, PolicyState, empty_state, finalize, merge_pair, merge_policy
from dgpo.lm_head.streamed import HeadGrads, Plan, Reduced, head_grads, reduce_heads, save_for_backward
from dgpo.lm_head.tiling import choose_tiling, projection_dtype
from dgpo.lm_head.types import Head, LMHeadStats, VocabParallel, statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor


def vocab_parallel_stats(
    policy_tensors: tuple[Tensor, Tensor, Tensor | None],
    ref_tensors: tuple[Tensor | None, Tensor | None, Tensor | None],
    targets: Int[Tensor, " N"],
    settings: tuple[float, float, float | None],
    impl: str,
    vocab_parallel: VocabParallel,
) -> LMHeadStats:
    """Return the statistics of `lm_head_stats` from this rank's shard of the heads.

    Args:
        policy_tensors: The policy's hidden (N, H), and this rank's rows of its weight and bias.
        ref_tensors: The reference's, each None if there is none.
        targets: Token ids, (N,), counted over all shards.
        settings: Temperature, logit scale and softcap.
        impl: As for `lm_head_stats`.
        vocab_parallel: The ranks, and whether the gradient of hidden is summed over them.

    Returns:
        The statistics of the whole vocabulary, equal on every rank.
    """
    process_group = vocab_parallel.process_group
    check_process_group(process_group, "leave vocab_parallel out for a whole head")
    hidden, weight, _ = policy_tensors
    device = device_of(hidden, weight, targets)
    error: Exception | None = None
    fields: dict[str, float | Tensor] = dict.fromkeys(_FIELDS, 0.0)
    try:
        compute_dtype = autocast_dtype(hidden)
        policy, ref = check_heads(policy_tensors, ref_tensors, may_be_empty=True)
        check_targets_shape(targets, policy)
        transform = check_transform(*settings)
        tile_ops = choose_tile_ops(impl, compute_dtype, hidden.device, is_split=True)
        values = (
            hidden.shape[0],
            weight.shape[0],
            *_digest(targets),
            ref is not None,
            torch.is_grad_enabled() and hidden.requires_grad and vocab_parallel.reduce_hidden_grad,
            _FLOATS.index(compute_dtype) if compute_dtype in _FLOATS else -1,
            transform.temperature,
            transform.logit_scale,
            transform.softcap or 0.0,
        )
        fields = dict(zip(_FIELDS, values, strict=True))
    except Exception as own_error:  # of any kind, a wrong type too: the other ranks wait for this one
        error = own_error
    calls = compare_calls(fields, error, may_differ=("rows of the shard",), device=device, process_group=process_group)
    ends = list(accumulate(int(call["rows of the shard"]) for call in calls))
    if ends[-1] == 0:
        raise ValueError("weight has no rows on any rank: a vocabulary needs at least one token.")
    if hidden.shape[0] > 0:
        check_targets_range(int(calls[0]["the lowest target"]), int(calls[0]["the highest target"]), ends[-1])
    assert tile_ops is not None, "a split vocabulary is always streamed"
    compute_dtype = projection_dtype(compute_dtype, hidden.device)
    tiling = choose_tiling(hidden.shape[0], max(weight.shape[0], 1), hidden.shape[1], compute_dtype, hidden.device)
    shards = Shards(tuple(ends), dist.get_rank(process_group), vocab_parallel)
    plan = Plan(transform, compute_dtype, tiling, tile_ops)
    return LMHeadStats(*_VocabParallel.apply(*policy, targets, *((None,) * 3 if ref is None else ref), plan, shards))


_FIELDS = (
    "the number of tokens N",
    "rows of the shard",
    "the checksum of targets",
    "the lowest target",
    "the highest target",
    "whether there is a reference",
    "whether hidden needs its gradient summed",
    "the dtype of the projections (its place in float64, float32, bfloat16, float16)",
    "temperature",
    "logit_scale",
    "softcap (0 for none)",
)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _digest(targets: Int[Tensor, " N"]) -> tuple[float | Tensor, ...]:
    """Return checksum, minimum and maximum: with parts of a sequence on each rank, every other field would be equal."""
    if targets.shape[0] == 0:
        return 0.0, 0.0, 0.0
    factors = torch.arange(targets.shape[0], device=targets.device) % 65521 + 1
    return ((targets + 1) * factors).sum() % 2**50, *targets.aminmax()


class Shards(NamedTuple):
    """How a vocabulary is split: the end of each rank's shard, this rank, and the process group."""

    ends: tuple[int, ...]
    rank: int
    vocab_parallel: VocabParallel

    @property
    def start(self) -> int:
        """The id of the first token of this rank's shard."""
        return self.ends[self.rank - 1] if self.rank else 0


def reduce_shard(policy: Head, ref: Head | None, targets: Int[Tensor, " N"], plan: Plan) -> Reduced:
    """Return `reduce_heads` of a shard that may be empty; targets count from its first row."""
    if policy.weight.shape[0] > 0:
        return reduce_heads(policy, ref, targets, plan)
    dtype, device = statistics_dtype(plan.compute_dtype), targets.device
    state = empty_state(targets.shape[0], pair=ref is not None, dtype=dtype, device=device)
    absent = torch.full(targets.shape, torch.nan, dtype=dtype, device=device)
    return Reduced(state, absent, None if ref is None else absent)


def merge_shards(parts: Sequence[Reduced], ends: Sequence[int], targets: Int[Tensor, " N"]) -> Reduced:
    """Return the state of a whole vocabulary from those of its shards.

    Args:
        parts: What `reduce_shard` returned for each, in the order of the vocabulary.
        ends: Where each shard ends.
        targets: Token ids counted over all shards, (N,).

    Returns:
        State and target logits, the latter from the shard whose rows include the target; nan where none does.
    """
    states = [part.state for part in parts]
    merge: Any = merge_pair if isinstance(states[0], PairState) else merge_policy
    state = reduce(merge, states)
    logits = _select_logits([part.target_logits for part in parts], ends, targets)
    ref_logits = [part.ref_target_logits for part in parts if part.ref_target_logits is not None]
    return Reduced(state, logits, _select_logits(ref_logits, ends, targets) if ref_logits else None)


def _select_logits(logits: Sequence[Tensor], ends: Sequence[int], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the logit of each target from the shard whose rows include it; nan where none does."""
    selected, start = torch.full_like(logits[0], torch.nan), 0
    for of_shard, end in zip(logits, ends, strict=True):
        selected = torch.where((targets >= start) & (targets < end), of_shard, selected)
        start = end
    return selected


def shard_grads(
    policy: Head,
    rows: tuple[Tensor, ...],
    upstream: tuple[Tensor | None, Tensor | None],
    needed: tuple[bool, bool, bool],
    plan: Plan,
) -> HeadGrads:
    """Return a shard's share of the gradient of hidden, in fp32, and the gradients of its weight and bias.

    Args:
        policy: The policy's shard; may be empty.
        rows: Targets counted from the shard's first row, then logps, entropy, target logits, maximum and log-sum of the
            whole vocabulary, each (N,).
        upstream: Gradients of logps and entropy, each (N,) or None.
        needed: Whether hidden, weight and bias need theirs.
        plan: How the pass runs.

    Returns:
        The three gradients, each None where it is not needed.
    """
    hidden, weight, bias = policy
    if weight.shape[0] == 0:
        zero = torch.zeros(hidden.shape, dtype=statistics_dtype(plan.compute_dtype), device=hidden.device)
        empty_bias = torch.zeros_like(bias) if bias is not None and needed[2] else None
        return HeadGrads(zero if needed[0] else None, torch.zeros_like(weight) if needed[1] else None, empty_bias)
    logit_grad = plan.tile_ops.logit_grad(rows, upstream, plan.transform, plan.workspace(hidden.device))
    is_here = (logit_grad.targets >= 0) & (logit_grad.targets < weight.shape[0])
    # The target's own entry belongs to the shard whose rows include the target, and to no other.
    logit_grad.at_target = torch.where(is_here, logit_grad.at_target, 0.0)
    return head_grads(policy, needed, logit_grad, plan)


def _gather(own: Reduced, process_group: dist.ProcessGroup | None) -> list[Reduced]:
    """Return the reduced shards of all ranks, by one all-gather."""
    logits = [x for x in own[1:] if x is not None]
    ranks = gather_ranks(torch.stack([*own.state, *logits]), process_group)
    if len(logits) == 2:
        return [Reduced(PairState(*x[:6]), x[6], x[7]) for x in ranks]
    return [Reduced(PolicyState(*x[:3]), x[3], None) for x in ranks]


class _VocabParallel(torch.autograd.Function):
    """(logps, entropy, hellinger_sq, ref_logps) of the whole vocabulary from one shard and the other ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        ref_hidden: Tensor | None,
        ref_weight: Tensor | None,
        ref_bias: Tensor | None,
        plan: Plan,
        shards: Shards,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ref = None if ref_hidden is None or ref_weight is None else Head(ref_hidden, ref_weight, ref_bias)
        local_targets = targets - shards.start
        with torch.autocast(hidden.device.type, enabled=False):
            own = reduce_shard(Head(hidden, weight, bias), ref, local_targets, plan)
            reduced = merge_shards(_gather(own, shards.vocab_parallel.process_group), shards.ends, targets)
            stats = finalize(*reduced, shards.ends[-1])
        save_for_backward(ctx, (hidden, weight, bias), local_targets, stats, reduced)
        ctx.plan, ctx.shards = plan, shards
        ctx.mark_non_differentiable(*(x for x in stats[2:] if x is not None))
        return tuple(stats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        nothing = (None,) * 6
        if grad_logps is None and grad_entropy is None:
            return (None, None, None, *nothing)
        hidden, weight, bias, *rows = ctx.saved_tensors
        head, needed = Head(hidden, weight, bias), ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            grads = shard_grads(head, tuple(rows), (grad_logps, grad_entropy), needed, ctx.plan)
        hidden_grad = grads.hidden
        if hidden_grad is not None:
            vocab_parallel = ctx.shards.vocab_parallel
            if vocab_parallel.reduce_hidden_grad:
                dist.all_reduce(hidden_grad, group=vocab_parallel.process_group)
            hidden_grad = hidden_grad.to(hidden.dtype)
        return (hidden_grad, grads.weight, grads.bias, *nothing)
