"""Statistics of a head whose vocabulary is split over the ranks of a process group (tensor parallelism).

Every rank reduces its shard to the state of `state`, with the logits of the targets it holds: 8 numbers a token. These
are all-gathered and merged like tiles, in the order of the ranks, so that every rank has the same statistics to the
last bit. Backward, each rank turns its own shard's logits into gradients; those of hidden are summed over the ranks.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from dgpo.core.ranks import agree, check_process_group, device_of, gather_ranks
from dgpo.lm_head.state import PairState, PolicyState, empty_state, finish, merge_pair, merge_policy
from dgpo.lm_head.stats import (
    autocast_dtype,
    check_targets_range,
    check_targets_shape,
    checked_heads,
    checked_transform,
    choose_impl,
    tile_work_of,
)
from dgpo.lm_head.streamed import HeadGrads, Plan, Reduced, head_grads, reduce_heads, save_for_backward
from dgpo.lm_head.tiles import choose_tiling, projection_dtype
from dgpo.lm_head.types import Head, LMHeadStats, statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor


def sharded_lm_head_stats(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " N"],
    *,
    process_group: dist.ProcessGroup | None = None,
    ref_hidden: Float[Tensor, "N G"] | None = None,
    ref_weight: Float[Tensor, "V G"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    ref_bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduce_hidden_grad: bool = True,
    impl: str = "auto",
) -> LMHeadStats:
    """Return `lm_head_stats` of a head whose vocabulary is split over the ranks of a process group.

    Weights and biases are this rank's consecutive rows of the whole head, in the order of the ranks; shards may differ
    in size and be empty. Everything else is the same on every rank: hidden states, targets (ids of the whole
    vocabulary) and options. Forward, 8 numbers a token are all-gathered; backward, the gradient of `hidden` is
    all-reduced in fp32.

    Args:
        hidden: Final hidden states of the policy, (N, H), any float dtype; replicated.
        weight: This rank's rows of the policy's head, (V of this rank, H).
        targets: Token ids, (N,) int64, counted over all shards.
        process_group: The ranks that hold the shards; None for all ranks.
        ref_hidden: Final hidden states of the reference, (N, G), replicated, or None for the policy alone.
        ref_weight: This rank's rows of the reference's head, split like the policy's. None with `ref_hidden` given: the
            reference shares the policy's weight and bias.
        bias: This rank's part of the policy's head bias; -inf rules a token out (padding rows, say).
        ref_bias: This rank's part of the reference's head bias; only together with `ref_weight`.
        temperature: Sampling temperature, > 0; applies to both heads.
        logit_scale: What projections are multiplied by, > 0.
        softcap: Final logit softcapping, > 0; None for none.
        reduce_hidden_grad: True: `hidden` receives its whole gradient on every rank, so nothing around this call may
            sum it again. False: this shard's share, for callers who sum themselves (a backward reduce-scatter).
        impl: "streamed", "triton", or "auto" as for `lm_head_stats`; float64 is streamed.

    Returns:
        The statistics of the whole vocabulary, equal on every rank. A gradient flows from logps and entropy to hidden
        and to this rank's weight and bias, if every rank computes the same loss from them and calls backward.

    Raises:
        ValueError: On every rank, if one of them was called with arguments that do not fit, or ranks were called with
            different numbers of tokens, targets, dtypes or options. Where looking at its arguments raises something
            else on a rank (None in place of a tensor), it raises that, and the others this.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)    # torchrun does this
        >>> shard = torch.tensor([[0.98], [0.02]]).log()          # with one rank, the whole head
        >>> stats = sharded_lm_head_stats(
        ...     torch.tensor([[1.0]]), shard, torch.tensor([0]), ref_hidden=torch.tensor([[0.0]])
        ... )
        >>> round(stats.logps.item(), 4), round(stats.hellinger_sq.item(), 4)
        (-0.0202, 0.2)
        >>> dist.destroy_process_group()
    """
    check_process_group(process_group, "use lm_head_stats for a whole head")
    device = device_of(hidden, weight, targets)
    error: Exception | None = None
    fields: dict[str, float | Tensor] = dict.fromkeys(_FIELDS, 0.0)
    try:
        compute_dtype = autocast_dtype(hidden)
        heads = checked_heads((hidden, weight, bias), (ref_hidden, ref_weight, ref_bias), may_be_empty=True)
        check_targets_shape(targets, heads[0])
        transform = checked_transform(temperature, logit_scale, softcap)
        if impl == "reference":
            raise ValueError("impl='reference' holds whole logits and is not for shards; pass impl='auto'.")
        impl = "streamed" if impl == "auto" and compute_dtype == torch.float64 else impl
        work = tile_work_of(choose_impl(impl, compute_dtype, hidden.device), hidden.device)
        values = (
            hidden.shape[0],
            weight.shape[0],
            *_digest(targets),
            heads[1] is not None,
            torch.is_grad_enabled() and hidden.requires_grad and reduce_hidden_grad,
            _FLOATS.index(compute_dtype) if compute_dtype in _FLOATS else -1,
            transform.temperature,
            transform.logit_scale,
            transform.softcap or 0.0,
        )
        fields = dict(zip(_FIELDS, values, strict=True))
    except Exception as refusal:  # of any kind, a wrong type too: the other ranks wait for this one's answer
        error = refusal
    calls = agree(fields, error, may_differ=("rows of the shard",), device=device, process_group=process_group)
    ends = list(accumulate(int(call["rows of the shard"]) for call in calls))
    if ends[-1] == 0:
        raise ValueError("weight has no rows on any rank: a vocabulary needs at least one token.")
    if hidden.shape[0] > 0:
        check_targets_range(int(calls[0]["the lowest target"]), int(calls[0]["the highest target"]), ends[-1])
    compute_dtype = projection_dtype(compute_dtype, hidden.device)
    tiling = choose_tiling(hidden.shape[0], max(weight.shape[0], 1), hidden.shape[1], compute_dtype, hidden.device)
    shards = Shards(tuple(ends), dist.get_rank(process_group), process_group, reduce_hidden_grad)
    plan = Plan(transform, compute_dtype, tiling, work)
    policy, ref = heads
    return LMHeadStats(*_Sharded.apply(*policy, targets, *((None,) * 3 if ref is None else ref), plan, shards))


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
    """Return checksum, minimum and maximum: ranks that hold parts of a sequence each would pass for right otherwise."""
    if targets.shape[0] == 0:
        return 0.0, 0.0, 0.0
    places = torch.arange(targets.shape[0], device=targets.device) % 65521 + 1
    return ((targets + 1) * places).sum() % 2**50, *targets.aminmax()


class Shards(NamedTuple):
    """How a vocabulary is split: where the shard of each rank ends, which is ours, and who holds the others."""

    ends: tuple[int, ...]
    rank: int
    process_group: dist.ProcessGroup | None
    reduce_hidden_grad: bool

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
        State and target logits, the latter from the shard that holds the target; nan where none does.
    """
    states = [part.state for part in parts]
    merge: Any = merge_pair if isinstance(states[0], PairState) else merge_policy
    state = reduce(merge, states)
    logits = _of_holder([part.target_logits for part in parts], ends, targets)
    ref_logits = [part.ref_target_logits for part in parts if part.ref_target_logits is not None]
    return Reduced(state, logits, _of_holder(ref_logits, ends, targets) if ref_logits else None)


def _of_holder(logits: Sequence[Tensor], ends: Sequence[int], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the logit of each target from the shard that holds it; nan where none does."""
    picked, start = torch.full_like(logits[0], torch.nan), 0
    for of_shard, end in zip(logits, ends, strict=True):
        picked = torch.where((targets >= start) & (targets < end), of_shard, picked)
        start = end
    return picked


def shard_grads(
    policy: Head,
    rows: tuple[Tensor, ...],
    upstream: tuple[Tensor | None, Tensor | None],
    wanted: tuple[bool, bool, bool],
    plan: Plan,
) -> HeadGrads:
    """Return a shard's share of the gradient of hidden, in fp32, and the gradients of its weight and bias.

    Args:
        policy: The policy's shard; may be empty.
        rows: Targets counted from the shard's first row, then logps, entropy, target logits, maximum and log-sum of the
            whole vocabulary, each (N,).
        upstream: Gradients of logps and entropy, each (N,) or None.
        wanted: Whether hidden, weight and bias need theirs.
        plan: How the pass runs.

    Returns:
        The three gradients, each None where it was not asked for.
    """
    hidden, weight, bias = policy
    if weight.shape[0] == 0:
        zero = torch.zeros(hidden.shape, dtype=statistics_dtype(plan.compute_dtype), device=hidden.device)
        empty_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        return HeadGrads(zero if wanted[0] else None, torch.zeros_like(weight) if wanted[1] else None, empty_bias)
    logit_grad = plan.tile_work.logit_grad(rows, upstream, plan.transform, plan.workspace(hidden.device))
    is_here = (logit_grad.targets >= 0) & (logit_grad.targets < weight.shape[0])
    # The target's own entry belongs to the shard that holds the target, and to no other.
    logit_grad.at_target = torch.where(is_here, logit_grad.at_target, 0.0)
    return head_grads(policy, wanted, logit_grad, plan)


def _gather(own: Reduced, process_group: dist.ProcessGroup | None) -> list[Reduced]:
    """Return what every rank's shard was reduced to, by one all-gather."""
    logits = [x for x in own[1:] if x is not None]
    ranks = gather_ranks(torch.stack([*own.state, *logits]), process_group)
    if len(logits) == 2:
        return [Reduced(PairState(*x[:6]), x[6], x[7]) for x in ranks]
    return [Reduced(PolicyState(*x[:3]), x[3], None) for x in ranks]


class _Sharded(torch.autograd.Function):
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
            reduced = merge_shards(_gather(own, shards.process_group), shards.ends, targets)
            stats = finish(*reduced, shards.ends[-1])
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
        head, wanted = Head(hidden, weight, bias), ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            grads = shard_grads(head, tuple(rows), (grad_logps, grad_entropy), wanted, ctx.plan)
        hidden_grad = grads.hidden
        if hidden_grad is not None:
            if ctx.shards.reduce_hidden_grad:
                dist.all_reduce(hidden_grad, group=ctx.shards.process_group)
            hidden_grad = hidden_grad.to(hidden.dtype)
        return (hidden_grad, grads.weight, grads.bias, *nothing)
