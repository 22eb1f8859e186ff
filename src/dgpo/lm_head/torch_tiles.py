"""What is done with each logits tile, in torch: forward into the state of its rows, backward into dL/dx.

Elementwise work runs on blocks of rows that stay in cache, since every step of it is one pass over memory. The fused
kernels of `triton_tiles` do the same in one pass and take the place of these two classes.
"""

import math
from typing import NamedTuple

import torch

from dgpo.lm_head.logit_grad import LogitGrad
from dgpo.lm_head.state import (
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
from dgpo.lm_head.tiles import Workspace, spans
from dgpo.lm_head.types import LogitTransform
from dgpo.tensor_types import Float, Int, Tensor

LOG2_E = math.log2(math.e)


class ProjectedTile(NamedTuple):
    """A tile of one head's projections, and what else of that head belongs to its rows and columns.

    Attributes:
        values: hidden @ weight.T of some rows and vocabulary entries, bias not yet added; free to be overwritten.
        bias: Of these entries, or None.
        targets: Ids of the rows' targets, counted from the tile's first entry; most of them lie outside of it.
        picked: Receives the projections of those targets that lie inside.
    """

    values: Float[Tensor, "n v"]
    bias: Float[Tensor, " v"] | None
    targets: Int[Tensor, " n"]
    picked: Float[Tensor, " n"]


def inner_block(
    work: Workspace, name: str, tile: Tensor, start: int, bias: Tensor | None, transform: LogitTransform
) -> Float[Tensor, "m v"]:
    """Return a block of a logits tile up to the transform's factor, in fp32, free to be overwritten."""
    block = work.block(name, tile, start)
    if bias is not None:
        block.add_(bias)
    return transform.inner_(block)


class TorchReduction:
    """The forward pass: the state of N tokens over the tiles seen so far."""

    def __init__(self, num_rows: int, *, pair: bool, transform: LogitTransform, work: Workspace) -> None:
        self._transform, self._work = transform, work
        self._state = empty_state(num_rows, pair=pair, dtype=work.stat_dtype, device=work.device)
        self._reduced = work.buffer("reduced", (len(self._state), num_rows), work.stat_dtype)

    def fold(self, rows: slice, policy: ProjectedTile, ref: ProjectedTile | None) -> None:
        """Take in one tile of some rows."""
        work, transform = self._work, self._transform
        for tile in (policy, ref):
            if tile is not None:
                pick(tile)
        for block in spans(rows.stop - rows.start, work.tiling.block):
            out = self._reduced[:, rows.start + block.start : rows.start + block.stop]
            x = inner_block(work, "policy.block", policy.values, block.start, policy.bias, transform)
            spare = work.spare("spare", x)
            if ref is None:
                reduce_policy(x, transform.factor, spare, out)
            else:
                y = inner_block(work, "ref.block", ref.values, block.start, ref.bias, transform)
                reduce_pair(x, y, transform.factor, spare, out)

    def close(self) -> None:
        """End a vocabulary tile. Merging is forty operations on short vectors, and done here for all rows together."""
        if isinstance(self._state, PairState):
            self._state = merge_pair(self._state, pair_state(self._reduced))
        else:
            self._state = merge_policy(self._state, policy_state(self._reduced))

    def state(self) -> PolicyState | PairState:
        """Return the state over all tiles that were closed."""
        return self._state


def _inside(targets: Int[Tensor, " n"], width: int) -> Int[Tensor, " k"] | None:
    """Return the rows whose target lies in a tile; on an accelerator None, as finding out would mean waiting for it."""
    if targets.device.type != "cpu":
        return None
    return ((targets >= 0) & (targets < width)).nonzero()[:, 0]


def pick(tile: ProjectedTile) -> None:
    """Write the projections of the targets that lie in the tile; no synchronisation with an accelerator."""
    values, targets, picked = tile.values, tile.targets, tile.picked
    last = values.shape[1] - 1
    inside = _inside(targets, values.shape[1])
    if inside is not None:
        picked[inside] = values[inside, targets[inside]].to(picked.dtype)
        return
    entries = values.gather(1, targets.clamp(0, last)[:, None])[:, 0].to(picked.dtype)
    torch.where((targets >= 0) & (targets <= last), entries, picked, out=picked)


class TorchLogitGrad(LogitGrad):
    """The backward pass: tiles of projections become dL/dx."""

    def turn(
        self, tile: Float[Tensor, "n v"], rows: slice, vocab: slice, bias: Tensor | None, *, zero_targets: bool
    ) -> Float[Tensor, "n v"]:
        """Return dL/dx of a tile in the compute dtype, 0 or the true value at the targets; overwrites the tile."""
        work = self.work
        dlogits = tile
        if tile.dtype != work.compute_dtype:
            dlogits = work.buffer("dlogits", (tile.shape[0], tile.shape[1]), work.compute_dtype)
        for block in spans(tile.shape[0], work.tiling.block):
            x = inner_block(work, "block", tile, block.start, bias, self.transform)
            grad = self._overwrite(x, slice(rows.start + block.start, rows.start + block.stop))
            if dlogits.dtype != grad.dtype:
                dlogits[block].copy_(grad)
        self.put_targets(dlogits, rows, vocab, as_zero=zero_targets)
        return dlogits

    def _overwrite(self, x: Float[Tensor, "m v"], rows: slice) -> Float[Tensor, "m v"]:
        """Return dL/dx of a block, given inner(x), right everywhere but at the targets; overwrites the block."""
        work, transform = self.work, self.transform
        bend = None if transform.softcap is None else work.spare("bend", x).copy_(x)
        u = torch.add(self.minus_lse[rows, None], x, alpha=transform.factor, out=x)
        if self.entropy_terms is None:
            grad = u.mul_(LOG2_E).exp2_()
        else:
            constant, e = (term[rows, None] for term in self.entropy_terms)
            probability = torch.mul(u, LOG2_E, out=work.spare("spare", u)).exp2_()
            # exp(-1e4) is 0: the floor only keeps 0 * -inf away.
            grad = u.clamp_(min=-1e4).mul_(e).add_(constant).mul_(probability)
        grad.mul_(self.row_scale[rows, None])
        if bend is not None:
            grad.addcmul_(grad, bend.square_(), value=-1.0)
        return grad

    def put_targets(self, dlogits: Float[Tensor, "n v"], rows: slice, vocab: slice, *, as_zero: bool) -> None:
        """Write dL/dx of the targets that lie in a tile, or 0; no synchronisation with an accelerator."""
        local, width = self.targets[rows] - vocab.start, vocab.stop - vocab.start
        rows_inside = _inside(local, width)
        if rows_inside is not None:
            entries = 0.0 if as_zero else self.at_target[rows][rows_inside].to(dlogits.dtype)
            dlogits[rows_inside, local[rows_inside]] = entries
            return
        starts = torch.arange(local.shape[0], device=local.device) * width
        index, inside = starts + local.clamp(0, width - 1), (local >= 0) & (local < width)
        flat = dlogits.view(-1)  # scatter_ on the tile itself takes a millisecond on the CPU
        entries = 0.0 if as_zero else self.at_target[rows].to(flat.dtype)
        flat.index_put_((index,), torch.where(inside, entries, flat[index]))
