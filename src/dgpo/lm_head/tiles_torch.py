"""The tile operations in torch.

Elementwise work runs on blocks of rows that stay in cache, since every step of it is one pass over memory. The fused
kernels of `tiles_triton` do the same in one pass.
"""

import math

import torch

from dgpo.lm_head.running_stats import (
    PairState,
    PolicyState,
    empty_state,
    merge_pair,
    merge_policy,
    pair_state,
    policy_state,
    reduce_pair,
    reduce_policy,
)
from dgpo.lm_head.tile_ops import LogitGrad, ProjectedTile, Reduction, TileOps
from dgpo.lm_head.tiling import spans
from dgpo.lm_head.types import LogitTransform
from dgpo.lm_head.workspace import Workspace
from dgpo.tensor_types import Float, Int, Tensor

LOG2_E = math.log2(math.e)


def inner_block(
    work: Workspace, name: str, tile: Tensor, start: int, bias: Tensor | None, transform: LogitTransform
) -> Float[Tensor, "m v"]:
    """Return a block of a logits tile up to the transform's factor, in fp32; the caller may overwrite it."""
    block = work.block(name, tile, start)
    if bias is not None:
        block.add_(bias)
    return transform.inner_(block)


class TorchReduction(Reduction):
    """The forward pass: the state of N tokens over the tiles so far."""

    def __init__(self, num_rows: int, *, pair: bool, transform: LogitTransform, work: Workspace) -> None:
        self._transform, self._work = transform, work
        self._state = empty_state(num_rows, pair=pair, dtype=work.stat_dtype, device=work.device)
        self._reduced = work.buffer("reduced", (len(self._state), num_rows), work.stat_dtype)

    def accumulate(self, rows: slice, policy: ProjectedTile, ref: ProjectedTile | None) -> None:
        """Reduce one tile of some rows, and gather the projections of its targets."""
        work, transform = self._work, self._transform
        for tile in (policy, ref):
            if tile is not None:
                gather_targets(tile)
        for block in spans(rows.stop - rows.start, work.tiling.block):
            out = self._reduced[:, rows.start + block.start : rows.start + block.stop]
            x = inner_block(work, "policy.block", policy.values, block.start, policy.bias, transform)
            scratch = work.scratch("scratch", x)
            if ref is None:
                reduce_policy(x, transform.factor, scratch, out)
            else:
                y = inner_block(work, "ref.block", ref.values, block.start, ref.bias, transform)
                reduce_pair(x, y, transform.factor, scratch, out)

    def finalize_tile(self) -> None:
        """Merge a vocabulary tile: forty operations on short vectors, done once for all rows together."""
        if isinstance(self._state, PairState):
            self._state = merge_pair(self._state, pair_state(self._reduced))
        else:
            self._state = merge_policy(self._state, policy_state(self._reduced))

    def state(self) -> PolicyState | PairState:
        """Return the state over all finalized tiles."""
        return self._state


def _rows_inside(targets: Int[Tensor, " n"], width: int) -> Int[Tensor, " k"] | None:
    """Return the rows whose target lies in a tile; None on an accelerator, where looking would mean waiting for it."""
    if targets.device.type != "cpu":
        return None
    return ((targets >= 0) & (targets < width)).nonzero()[:, 0]


def gather_targets(tile: ProjectedTile) -> None:
    """Write the projections of the targets that lie in the tile; no synchronisation with an accelerator."""
    values, targets, target_values = tile.values, tile.targets, tile.target_values
    last = values.shape[1] - 1
    rows = _rows_inside(targets, values.shape[1])
    if rows is not None:
        target_values[rows] = values[rows, targets[rows]].to(target_values.dtype)
        return
    entries = values.gather(1, targets.clamp(0, last)[:, None])[:, 0].to(target_values.dtype)
    torch.where((targets >= 0) & (targets <= last), entries, target_values, out=target_values)


class TorchLogitGrad(LogitGrad):
    """The backward pass: dL/dx of tiles of projections."""

    def dlogits(
        self, tile: Float[Tensor, "n v"], rows: slice, vocab: slice, bias: Tensor | None, *, zero_targets: bool
    ) -> Float[Tensor, "n v"]:
        """Return dL/dx of a tile in the compute dtype, 0 or the true value at the targets; overwrites the tile."""
        work = self.work
        dlogits = tile
        if tile.dtype != work.compute_dtype:
            dlogits = work.buffer("dlogits", (tile.shape[0], tile.shape[1]), work.compute_dtype)
        for block in spans(tile.shape[0], work.tiling.block):
            x = inner_block(work, "block", tile, block.start, bias, self.transform)
            grad = self._dlogits_of_block(x, slice(rows.start + block.start, rows.start + block.stop))
            if dlogits.dtype != grad.dtype:
                dlogits[block].copy_(grad)
        self.scatter_targets(dlogits, rows, vocab, as_zero=zero_targets)
        return dlogits

    def _dlogits_of_block(self, x: Float[Tensor, "m v"], rows: slice) -> Float[Tensor, "m v"]:
        """Return dL/dx of a block, given inner(x), right everywhere but at the targets; overwrites the block."""
        work, transform = self.work, self.transform
        tanh = None if transform.softcap is None else work.scratch("tanh", x).copy_(x)
        u = torch.add(self.minus_lse[rows, None], x, alpha=transform.factor, out=x)
        if self.entropy_terms is None:
            grad = u.mul_(LOG2_E).exp2_()
        else:
            constant, e = (term[rows, None] for term in self.entropy_terms)
            probability = torch.mul(u, LOG2_E, out=work.scratch("scratch", u)).exp2_()
            # exp(-1e4) is 0: the floor only avoids 0 * -inf.
            grad = u.clamp_(min=-1e4).mul_(e).add_(constant).mul_(probability)
        grad.mul_(self.row_scale[rows, None])
        if tanh is not None:
            grad.addcmul_(grad, tanh.square_(), value=-1.0)
        return grad

    def scatter_targets(self, dlogits: Float[Tensor, "n v"], rows: slice, vocab: slice, *, as_zero: bool) -> None:
        """Write dL/dx of the targets that lie in a tile, or 0; no synchronisation with an accelerator."""
        local, width = self.targets[rows] - vocab.start, vocab.stop - vocab.start
        rows_inside = _rows_inside(local, width)
        if rows_inside is not None:
            entries = 0.0 if as_zero else self.at_target[rows][rows_inside].to(dlogits.dtype)
            dlogits[rows_inside, local[rows_inside]] = entries
            return
        starts = torch.arange(local.shape[0], device=local.device) * width
        index, inside = starts + local.clamp(0, width - 1), (local >= 0) & (local < width)
        flat = dlogits.view(-1)  # scatter_ on the tile itself takes a millisecond on the CPU
        entries = 0.0 if as_zero else self.at_target[rows].to(flat.dtype)
        flat.index_put_((index,), torch.where(inside, entries, flat[index]))


TORCH_TILES = TileOps(TorchReduction, TorchLogitGrad)
