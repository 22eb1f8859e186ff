"""The statistics and their gradient by tiles of the vocabulary: no tensor of (N, V) forward or backward.

The vocabulary is the outer loop: each row of a weight is read once, each row of its gradient written once. The backward
pass recomputes every logits tile instead of saving it. The matrix products are torch's; between them, the tile
operations (`tile_ops`) work on each tile.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from dgpo.lm_head.running_stats import PairState, PolicyState, finalize
from dgpo.lm_head.tile_ops import LogitGrad, ProjectedTile, TileOps
from dgpo.lm_head.tiles_torch import TORCH_TILES
from dgpo.lm_head.tiling import Tiling, choose_tiling, spans
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform
from dgpo.lm_head.workspace import HiddenGrad, WeightGrad, Workspace
from dgpo.tensor_types import Float, Int, Tensor


def streamed_stats(
    policy: Head,
    ref: Head | None,
    targets: Int[Tensor, " N"],
    transform: LogitTransform,
    compute_dtype: torch.dtype,
    tiling: Tiling | None = None,
    tile_ops: TileOps = TORCH_TILES,
) -> LMHeadStats:
    """Return the statistics tile by tile.

    Args:
        policy: Hidden states (N, H), weight (V, H) and bias (V,) of the policy.
        ref: The same of the reference, or None. No gradient flows to it. Where its weight is the policy's own tensor
            each tile of it is read once for both.
        targets: Token ids, (N,), in [0, V). The logps of an id outside are nan.
        transform: Logit scale, softcap and temperature, applied to both heads.
        compute_dtype: Dtype of the projections; statistics and gradient sums are float32, or float64 for float64.
        tiling: Sizes of the tiles; chosen by device and shape when None.
        tile_ops: The operations on each tile.

    Returns:
        The four statistics; logps and entropy carry gradient to the policy's tensors.
    """
    if tiling is None:
        (N, H), V = policy.hidden.shape, policy.weight.shape[0]
        tiling = choose_tiling(N, V, H, compute_dtype, policy.hidden.device)
    ref_tensors = (None, None, None) if ref is None else tuple(ref)
    plan = Plan(transform, compute_dtype, tiling, tile_ops)
    return LMHeadStats(*_Streamed.apply(*policy, targets, *ref_tensors, plan))


class Plan(NamedTuple):
    """How a pass over the tiles runs."""

    transform: LogitTransform
    compute_dtype: torch.dtype
    tiling: Tiling
    tile_ops: TileOps

    def workspace(self, device: torch.device) -> Workspace:
        """Return fresh buffers for one pass."""
        return Workspace(self.tiling, self.compute_dtype, device)


def _projectable(hidden: Float[Tensor, "N H"], compute_dtype: torch.dtype) -> Float[Tensor, "N H"]:
    # One layout for both heads: equal hidden states must meet the same matmul kernel, or d would not be exactly 0.
    return hidden.to(compute_dtype).contiguous()


class _HeadTiles:
    """One head during the forward pass: its tiles, and the projections of the targets gathered from them."""

    def __init__(self, name: str, head: Head, targets: Tensor, transform: LogitTransform, work: Workspace) -> None:
        self._name, self._head, self._targets, self._transform, self._work = name, head, targets, transform, work
        self._hidden = _projectable(head.hidden, work.compute_dtype)
        # nan until gathered: a target outside the vocabulary must not pass for one of logit 0.
        self._target_values = torch.full(targets.shape, torch.nan, dtype=work.stat_dtype, device=targets.device)

    def load(self, vocab: slice, shared_rows: Tensor | None = None) -> Float[Tensor, "v H"]:
        """Load a vocabulary tile and return its rows of the weight: `shared_rows` where the other head loaded them."""
        rows, bias = shared_rows, self._head.bias
        if rows is None:
            rows = self._work.weight_rows(self._name + ".weight", self._head.weight, vocab.start, vocab.stop)
        self._vocab, self._weight_rows = vocab, rows
        self._bias = None if bias is None else bias[vocab].to(self._work.stat_dtype)
        return rows

    def project(self, rows: slice) -> ProjectedTile:
        """Return the tile of some rows."""
        values = self._work.project(self._name, self._hidden[rows], self._weight_rows)
        return ProjectedTile(values, self._bias, self._targets[rows] - self._vocab.start, self._target_values[rows])

    def target_logits(self) -> Float[Tensor, " N"]:
        """Return the logits of the targets after the last tile; nan for those in no tile."""
        values, bias = self._target_values, self._head.bias
        if bias is not None:
            values = values + bias[self._targets.clamp(0, bias.shape[0] - 1)].to(values.dtype)
        return self._transform.inner_(values).mul_(self._transform.factor)


class Reduced(NamedTuple):
    """The result of a forward pass for each token: its state, and the targets' logits under both heads."""

    state: PolicyState | PairState
    target_logits: Float[Tensor, " N"]
    ref_target_logits: Float[Tensor, " N"] | None


def reduce_heads(policy: Head, ref: Head | None, targets: Int[Tensor, " N"], plan: Plan) -> Reduced:
    """Return the state of N tokens over the vocabulary of the heads, which may be a shard of a larger one.

    Args:
        policy: The policy's head.
        ref: The reference's head, or None.
        targets: Token ids counted from the first row of the weights, (N,); those outside leave nan.
        plan: How the pass runs.

    Returns:
        State and target logits. No gradient flows.
    """
    work, tiling, transform = plan.workspace(policy.hidden.device), plan.tiling, plan.transform
    policy_tiles = _HeadTiles("policy", policy, targets, transform, work)
    ref_tiles = None if ref is None else _HeadTiles("ref", ref, targets, transform, work)
    is_shared = ref is not None and ref.weight is policy.weight
    num_rows = policy.hidden.shape[0]
    reduction = plan.tile_ops.reduction(num_rows, pair=ref is not None, transform=transform, work=work)
    for vocab in spans(policy.weight.shape[0], tiling.vocab):
        weight_rows = policy_tiles.load(vocab)
        if ref_tiles is not None:
            ref_tiles.load(vocab, weight_rows if is_shared else None)
        for rows in spans(num_rows, tiling.rows):
            reduction.accumulate(
                rows, policy_tiles.project(rows), None if ref_tiles is None else ref_tiles.project(rows)
            )
        reduction.finalize_tile()
    ref_target_logits = None if ref_tiles is None else ref_tiles.target_logits()
    return Reduced(reduction.state(), policy_tiles.target_logits(), ref_target_logits)


class HeadGrads(NamedTuple):
    """Gradients of a head's tensors, each None where it is not needed."""

    hidden: Float[Tensor, "N H"] | None
    weight: Float[Tensor, "V H"] | None
    bias: Float[Tensor, " V"] | None


def head_grads(head: Head, needed: tuple[bool, bool, bool], logit_grad: LogitGrad, plan: Plan) -> HeadGrads:
    """Return the gradients of hidden, weight and bias that are needed, recomputing each logits tile.

    Args:
        head: The policy's head, or a shard of it.
        needed: Whether hidden, weight and bias need theirs.
        logit_grad: Computes dL/dx of each tile.
        plan: How the pass runs.

    Returns:
        The gradient of hidden in float32 (float64), summed over this head's vocabulary and not yet rounded, so that
        shards of it can be added; those of weight and bias in their dtypes.
    """
    work, tiling, hidden = logit_grad.work, plan.tiling, _projectable(head.hidden, plan.compute_dtype)
    hidden_grad = HiddenGrad(hidden, work) if needed[0] else None
    weight_grad = WeightGrad(hidden, head.weight, work) if needed[1] else None
    bias_grad = torch.zeros(head.weight.shape[0], dtype=work.stat_dtype, device=work.device) if needed[2] else None
    for vocab in spans(head.weight.shape[0], tiling.vocab):
        weight_rows = work.weight_rows("weight", head.weight, vocab.start, vocab.stop)
        bias = None if head.bias is None else head.bias[vocab].to(work.stat_dtype)
        for rows in spans(hidden.shape[0], tiling.rows):
            tile = work.project("tile", hidden[rows], weight_rows)
            dlogits = logit_grad.dlogits(tile, rows, vocab, bias, zero_targets=hidden_grad is not None)
            if hidden_grad is not None:
                # The targets' own entries are by far the largest; they are added in fp32 below.
                hidden_grad.add(rows, dlogits, weight_rows)
                logit_grad.scatter_targets(dlogits, rows, vocab, as_zero=False)
            if bias_grad is not None:
                bias_grad[vocab] += dlogits.sum(0, dtype=work.stat_dtype)
            if weight_grad is not None:
                weight_grad.add(rows, dlogits, weight_grad.total[vocab], is_last=rows.stop == hidden.shape[0])
            del tile, dlogits  # where products allocate, the next one reuses this memory
    if hidden_grad is not None:
        hidden_grad.add_entries(logit_grad.targets, logit_grad.at_target, head.weight)
    if weight_grad is not None and hidden.shape[0] == 0:
        weight_grad.total.zero_()
    return HeadGrads(
        None if hidden_grad is None else hidden_grad.total,
        None if weight_grad is None else weight_grad.total,
        None if bias_grad is None or head.bias is None else bias_grad.to(head.bias.dtype),
    )


class _Streamed(torch.autograd.Function):
    """(logps, entropy, hellinger_sq, ref_logps); the first two are differentiable in hidden, weight and bias."""

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
    ) -> tuple[Tensor | None, ...]:
        # Entropy is mostly only logged: without this its missing gradient would arrive as zeros and cost a pass.
        ctx.set_materialize_grads(False)
        ref = None
        if ref_hidden is not None and ref_weight is not None:
            ref = Head(ref_hidden, ref_weight, ref_bias)
        with torch.autocast(hidden.device.type, enabled=False):
            reduced = reduce_heads(Head(hidden, weight, bias), ref, targets, plan)
            stats = finalize(*reduced, weight.shape[0])
        save_for_backward(ctx, (hidden, weight, bias), targets, stats, reduced)
        ctx.plan = plan
        ctx.mark_non_differentiable(*(x for x in stats[2:] if x is not None))
        return tuple(stats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        nothing = (None,) * 5
        if grad_logps is None and grad_entropy is None:
            return (None, None, None, *nothing)
        grads = grads_from_saved(ctx, (grad_logps, grad_entropy), ctx.plan)
        hidden_grad = None if grads.hidden is None else grads.hidden.to(ctx.saved_tensors[0].dtype)
        return (hidden_grad, grads.weight, grads.bias, *nothing)


def save_for_backward(
    ctx: Any, policy: tuple[Tensor, Tensor, Tensor | None], targets: Tensor, stats: LMHeadStats, reduced: Reduced
) -> None:
    """Save what `grads_from_saved` needs, if a gradient is needed: the policy's tensors and six numbers a token."""
    if any(ctx.needs_input_grad[:3]):
        state = reduced.state
        rows = (targets, stats.logps, stats.entropy, reduced.target_logits, state.mz, state.sz.log())
        ctx.save_for_backward(*policy, *rows)


def grads_from_saved(ctx: Any, upstream: tuple[Tensor | None, Tensor | None], plan: Plan) -> HeadGrads:
    """Return the gradients that are needed, from the saved tensors and the gradients of logps and entropy."""
    hidden, weight, bias, *saved = ctx.saved_tensors
    with torch.autocast(hidden.device.type, enabled=False):
        logit_grad = plan.tile_ops.logit_grad(tuple(saved), upstream, plan.transform, plan.workspace(hidden.device))
        return head_grads(Head(hidden, weight, bias), ctx.needs_input_grad[:3], logit_grad, plan)
