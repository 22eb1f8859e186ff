"""What an implementation does with each logits tile: accumulate it forward, compute dL/dx of it backward.

`streamed` multiplies tile by tile and calls these operations; `tiles_torch` and `tiles_triton` implement them.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from dgpo.lm_head.running_stats import PairState, PolicyState
from dgpo.lm_head.types import LogitTransform
from dgpo.lm_head.workspace import Workspace
from dgpo.tensor_types import Float, Int, Tensor


class ProjectedTile(NamedTuple):
    """A tile of one head's projections, with what belongs to its rows and columns.

    Attributes:
        values: hidden @ weight.T of some rows and vocabulary entries, bias not yet added; may be overwritten.
        bias: Bias of these entries, or None.
        targets: Ids of the rows' targets, counted from the tile's first entry; most of them lie outside of it.
        target_values: Receives the projections of those targets that lie inside.
    """

    values: Float[Tensor, "n v"]
    bias: Float[Tensor, " v"] | None
    targets: Int[Tensor, " n"]
    target_values: Float[Tensor, " n"]


class Reduction(ABC):
    """The forward pass: the running state of N tokens over the tiles so far."""

    @abstractmethod
    def __init__(self, num_rows: int, *, pair: bool, transform: LogitTransform, work: Workspace) -> None: ...

    @abstractmethod
    def accumulate(self, rows: slice, policy: ProjectedTile, ref: ProjectedTile | None) -> None:
        """Accumulate one tile of some rows, and gather the projections of its targets."""

    @abstractmethod
    def finalize_tile(self) -> None:
        """Finalize a vocabulary tile, once all of its rows are accumulated."""

    @abstractmethod
    def state(self) -> PolicyState | PairState:
        """Return the state over all finalized tiles."""


class LogitGrad(ABC):
    """The backward pass: dL/dx of tiles of x = hidden @ weight.T + bias, from what the forward pass saved of each row.

    dL/dz_v = g (1[v = t] - p_v) - e p_v (log p_v + H) with g, e the upstream gradients of logps and entropy.
    p_v = exp(z_v - lse); lse rounded to fp32 is off by `rest`, up to 5e-4 where logits are around 1e4, and the
    correction exp(-rest) is a factor of the whole row.

    With u_v = z_v - lse, everywhere but at the target dL/dx_v = row_scale exp(u_v) (constant + e u_v), times
    1 - tanh^2 under a softcap; `at_target` is the whole gradient there. Without an entropy gradient the bracket is part
    of `row_scale` and `entropy_terms` is None. All are (N,).
    """

    def __init__(
        self,
        saved: tuple[Tensor, ...],
        grads: tuple[Tensor | None, Tensor | None],
        transform: LogitTransform,
        work: Workspace,
    ) -> None:
        self.targets, logps, entropy, target_logits, mz, log_sz = saved
        self.transform, self.work = transform, work
        slope = transform.slope
        g = torch.zeros_like(logps) if grads[0] is None else grads[0].to(logps.dtype)
        lse = mz + log_sz
        rest = (mz - lse) + log_sz
        self.minus_lse = -lse
        # g (1 - p_t) without cancellation where p_t is close to 1.
        at_target = -torch.expm1(logps) * (g * slope)
        row_scale = (-rest).exp() * -slope
        self.entropy_terms: tuple[Tensor, Tensor] | None = None
        if grads[1] is None:
            row_scale = row_scale * g
        else:
            e = grads[1].to(logps.dtype)
            # u_v = log p_v + rest, so that  g + e (log p_v + H) = (g + e (H - rest)) + e u_v
            self.entropy_terms = (g + e * (entropy - rest), e)
            # A target of probability 0 adds nothing: 0 * -inf is nan.
            at_target -= slope * e * logps.exp() * (logps.clamp(min=-1e4) + entropy)
        if transform.softcap is not None:
            at_target *= 1.0 - (target_logits / transform.factor).square()
        self.row_scale, self.at_target = row_scale, at_target

    @abstractmethod
    def dlogits(
        self, tile: Float[Tensor, "n v"], rows: slice, vocab: slice, bias: Tensor | None, *, zero_targets: bool
    ) -> Float[Tensor, "n v"]:
        """Return dL/dx of a tile in the compute dtype, 0 or the true value at the targets; overwrites the tile."""

    @abstractmethod
    def scatter_targets(self, dlogits: Float[Tensor, "n v"], rows: slice, vocab: slice, *, as_zero: bool) -> None:
        """Write dL/dx of the targets that lie in a tile, or 0; no synchronisation with an accelerator."""


class TileOps(NamedTuple):
    """The operations of one implementation: a class for each direction."""

    reduction: type[Reduction]
    logit_grad: type[LogitGrad]
