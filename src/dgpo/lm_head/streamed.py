"""The statistics and their gradient by tiles of the vocabulary, in torch: no tensor of (N, V) forward or backward.

The vocabulary is the outer loop: each row of a weight is read once, each row of its gradient written once. The backward
pass recomputes every logits tile instead of keeping it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from dgpo._typing import Float, Int, Tensor
from dgpo.lm_head.logit_grad import LogitGrad
from dgpo.lm_head.state import (
    PairState,
    PolicyState,
    empty_state,
    finish,
    merge_pair,
    merge_policy,
    pair_state,
    policy_state,
    reduce_pair,
    reduce_policy,
)
from dgpo.lm_head.tiles import HiddenGrad, Tiling, WeightGrad, Workspace, choose_tiling
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform


def streamed_stats(
    policy: Head,
    ref: Head | None,
    targets: Int[Tensor, " N"],
    transform: LogitTransform,
    compute_dtype: torch.dtype,
    tiling: Tiling | None = None,
) -> LMHeadStats:
    """Return the statistics tile by tile.

    Args:
        policy: Hidden states (N, H), weight (V, H) and bias (V,) of the policy.
        ref: The same of the reference, or None. No gradient flows to it. Where its weight is the policy's own tensor
            each tile of it is read once for both.
        targets: Token ids, (N,), in [0, V). The logps of an id outside are nan.
        transform: Logit scale, softcap and temperature, applied to both heads.
        compute_dtype: What the projections run in; statistics and gradient sums are float32, or float64 for float64.
        tiling: Sizes of the tiles; chosen by device and shape when None.

    Returns:
        The four statistics; logps and entropy carry gradient to the policy's tensors.
    """
    tiling = tiling or choose_tiling(policy.hidden.shape[0], policy.weight.shape[0], policy.hidden.device)
    ref_tensors = (None, None, None) if ref is None else tuple(ref)
    return LMHeadStats(*_Streamed.apply(*policy, targets, *ref_tensors, transform, compute_dtype, tiling))


def _spans(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(total, start + step))


def _projectable(hidden: Float[Tensor, "N H"], compute_dtype: torch.dtype) -> Float[Tensor, "N H"]:
    # One layout for both heads: equal hidden states must meet the same matmul kernel, or d would not be exactly 0.
    return hidden.to(compute_dtype).contiguous()


def _inner_block(
    work: Workspace, name: str, tile: Tensor, start: int, bias: Tensor | None, transform: LogitTransform
) -> Float[Tensor, "m v"]:
    """Return a block of a logits tile up to the transform's factor, in fp32, free to be overwritten."""
    block = work.block(name, tile, start)
    if bias is not None:
        block.add_(bias)
    return transform.inner_(block)


def _pick(tile: Float[Tensor, "n v"], local: Int[Tensor, " n"], out: Float[Tensor, " n"]) -> None:
    """Write the entries at `local` that lie in the tile; no synchronisation with an accelerator."""
    last = tile.shape[1] - 1
    entries = tile.gather(1, local.clamp(0, last)[:, None])[:, 0].to(out.dtype)
    torch.where((local >= 0) & (local <= last), entries, out, out=out)


class _HeadTiles:
    """One head during the forward pass: its logits tiles and, on the way, the projections of the targets."""

    def __init__(self, name: str, head: Head, targets: Tensor, transform: LogitTransform, work: Workspace) -> None:
        self._name, self._head, self._targets, self._transform, self._work = name, head, targets, transform, work
        self._hidden = _projectable(head.hidden, work.compute_dtype)
        # nan until it is found: a target outside the vocabulary must not pass for one of logit 0.
        self._picked = torch.full(targets.shape, torch.nan, dtype=work.stat_dtype, device=targets.device)

    def open(self, vocab: slice, shared_rows: Tensor | None = None) -> Float[Tensor, "v H"]:
        """Turn to a vocabulary tile and return the rows of its weight; `shared_rows` if another head has read them."""
        rows, bias = shared_rows, self._head.bias
        if rows is None:
            rows = self._work.weight_rows(self._name + ".weight", self._head.weight, vocab.start, vocab.stop)
        self._vocab, self._weight_rows = vocab, rows
        self._bias = None if bias is None else bias[vocab].to(self._work.stat_dtype)
        return rows

    def project(self, rows: slice) -> None:
        """Compute the logits tile of some rows and keep the projections of those targets that lie in it."""
        self._tile = self._work.project(self._name, self._hidden[rows], self._weight_rows)
        _pick(self._tile, self._targets[rows] - self._vocab.start, self._picked[rows])

    def block(self, start: int) -> Float[Tensor, "m v"]:
        """Return a block of the tile's rows, up to the transform's factor."""
        return _inner_block(self._work, self._name + ".block", self._tile, start, self._bias, self._transform)

    def target_logits(self) -> Float[Tensor, " N"]:
        """Return the logits of the targets, once every tile has been seen."""
        picked, bias = self._picked, self._head.bias
        if bias is not None:
            picked = picked + bias[self._targets.clamp(0, bias.shape[0] - 1)].to(picked.dtype)
        return self._transform.inner_(picked).mul_(self._transform.factor)


def _forward_state(
    policy: _HeadTiles, ref: _HeadTiles | None, is_shared: bool, size: tuple[int, int], factor: float, work: Workspace
) -> PolicyState | PairState:
    """Return the state of N tokens over the whole vocabulary."""
    (num_rows, vocab_size), tiling = size, work.tiling
    state = empty_state(num_rows, pair=ref is not None, dtype=work.stat_dtype, device=work.device)
    for vocab in _spans(vocab_size, tiling.vocab):
        weight_rows = policy.open(vocab)
        if ref is not None:
            ref.open(vocab, weight_rows if is_shared else None)
        # Merged once a vocabulary tile, for all rows together: a merge is forty operations on short vectors.
        reduced = work.buffer("reduced", (len(state), num_rows), work.stat_dtype)
        for rows in _spans(num_rows, tiling.rows):
            policy.project(rows)
            if ref is not None:
                ref.project(rows)
            for block in _spans(rows.stop - rows.start, tiling.block):
                out = reduced[:, rows.start + block.start : rows.start + block.stop]
                x = policy.block(block.start)
                spare = work.spare("spare", x)
                if ref is None:
                    reduce_policy(x, factor, spare, out)
                else:
                    reduce_pair(x, ref.block(block.start), factor, spare, out)
        if isinstance(state, PairState):
            state = merge_pair(state, pair_state(reduced))
        else:
            state = merge_policy(state, policy_state(reduced))
    return state


def _backward_tiles(
    head: Head, wanted: tuple[bool, bool, bool], logit_grad: LogitGrad, transform: LogitTransform, work: Workspace
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of hidden, weight and bias that are wanted, recomputing each logits tile."""
    tiling, hidden = work.tiling, _projectable(head.hidden, work.compute_dtype)
    hidden_grad = HiddenGrad(hidden, work) if wanted[0] else None
    weight_grad = WeightGrad(hidden, head.weight, work) if wanted[1] else None
    bias_grad = torch.zeros(head.weight.shape[0], dtype=work.stat_dtype, device=work.device) if wanted[2] else None
    for vocab in _spans(head.weight.shape[0], tiling.vocab):
        weight_rows = work.weight_rows("weight", head.weight, vocab.start, vocab.stop)
        bias = None if head.bias is None else head.bias[vocab].to(work.stat_dtype)
        for rows in _spans(hidden.shape[0], tiling.rows):
            tile = work.project("tile", hidden[rows], weight_rows)
            dlogits = tile
            if tile.dtype != work.compute_dtype:
                dlogits = work.buffer("dlogits", tile.shape, work.compute_dtype)
            for block in _spans(tile.shape[0], tiling.block):
                x = _inner_block(work, "block", tile, block.start, bias, transform)
                grad = logit_grad.overwrite(x, slice(rows.start + block.start, rows.start + block.stop), work)
                if dlogits.dtype != grad.dtype:
                    dlogits[block].copy_(grad)
            places = logit_grad.find_targets(rows, vocab)
            if hidden_grad is not None:
                # The targets' own entries are by far the largest; they are added in fp32 below.
                logit_grad.put_targets(dlogits, rows, places, as_zero=True)
                hidden_grad.add(rows, dlogits, weight_rows)
            logit_grad.put_targets(dlogits, rows, places, as_zero=False)
            if bias_grad is not None:
                bias_grad[vocab] += dlogits.sum(0, dtype=work.stat_dtype)
            if weight_grad is not None:
                weight_grad.add(rows, dlogits, weight_grad.total[vocab], is_last=rows.stop == hidden.shape[0])
    if hidden_grad is not None:
        hidden_grad.add_entries(logit_grad.targets, logit_grad.at_target, head.weight)
    if weight_grad is not None and hidden.shape[0] == 0:
        weight_grad.total.zero_()
    return (
        None if hidden_grad is None else hidden_grad.total.to(head.hidden.dtype),
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
        transform: LogitTransform,
        compute_dtype: torch.dtype,
        tiling: Tiling,
    ) -> tuple[Tensor | None, ...]:
        # Entropy is mostly only looked at: without this its missing gradient would arrive as zeros to work on.
        ctx.set_materialize_grads(False)
        with torch.autocast(hidden.device.type, enabled=False):
            work = Workspace(tiling, compute_dtype, hidden.device)
            policy = _HeadTiles("policy", Head(hidden, weight, bias), targets, transform, work)
            ref = None
            if ref_hidden is not None and ref_weight is not None:
                ref = _HeadTiles("ref", Head(ref_hidden, ref_weight, ref_bias), targets, transform, work)
            size = (hidden.shape[0], weight.shape[0])
            state = _forward_state(policy, ref, ref_weight is weight, size, transform.factor, work)
            target_logits = policy.target_logits()
            stats = finish(state, target_logits, None if ref is None else ref.target_logits(), weight.shape[0])
        if any(ctx.needs_input_grad[:3]):
            rows = (targets, stats.logps, stats.entropy, target_logits, state.mz, state.sz.log())
            ctx.save_for_backward(hidden, weight, bias, *rows)
            ctx.settings = transform, compute_dtype, tiling
        ctx.mark_non_differentiable(*(x for x in stats[2:] if x is not None))
        return tuple(stats)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        nothing = (None,) * 7
        if grad_logps is None and grad_entropy is None:
            return (None, None, None, *nothing)
        hidden, weight, bias, *saved = ctx.saved_tensors
        transform, compute_dtype, tiling = ctx.settings
        with torch.autocast(hidden.device.type, enabled=False):
            logit_grad = LogitGrad(tuple(saved), (grad_logps, grad_entropy), transform)
            work = Workspace(tiling, compute_dtype, hidden.device)
            grads = _backward_tiles(Head(hidden, weight, bias), ctx.needs_input_grad[:3], logit_grad, transform, work)
        return (*grads, *nothing)
