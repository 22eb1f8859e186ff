"""The gradient of logps and entropy with respect to a tile of the logits, recomputed from what each row has saved."""

import torch

from dgpo._typing import Bool, Float, Int, Tensor
from dgpo.lm_head.tiles import Workspace
from dgpo.lm_head.types import LogitTransform


class LogitGrad:
    """dL/dx of logits tiles, x = hidden @ weight.T + bias, from the saved statistics of their rows.

    dL/dz_v = g (1[v = t] - p_v) - e p_v (log p_v + H) with g, e the upstream gradients of logps and entropy.
    p_v = exp(z_v - lse); lse rounded to fp32 is off by `rest`, up to 5e-4 where logits are around 1e4, and the
    correction exp(-rest) is a factor of the whole row.
    """

    def __init__(
        self, saved: tuple[Tensor, ...], grads: tuple[Tensor | None, Tensor | None], transform: LogitTransform
    ) -> None:
        self.targets, logps, entropy, target_logits, mz, log_sz = saved
        self._transform, slope = transform, transform.slope
        g = torch.zeros_like(logps) if grads[0] is None else grads[0].to(logps.dtype)
        lse = mz + log_sz
        rest = (mz - lse) + log_sz
        self._minus_lse = -lse[:, None]
        # g (1 - p_t) without cancellation where p_t is close to 1.
        at_target = -torch.expm1(logps) * (g * slope)
        row_scale = (-rest).exp() * -slope
        self._entropy_terms: tuple[Tensor, Tensor] | None = None
        if grads[1] is None:
            row_scale = row_scale * g
        else:
            e = grads[1].to(logps.dtype)
            # With u = z_v - lse = log p_v + rest:  g + e (log p_v + H) = (g + e (H - rest)) + e u
            self._entropy_terms = ((g + e * (entropy - rest))[:, None], e[:, None])
            # A target of probability 0 adds nothing: 0 * -inf is nan.
            at_target -= slope * e * logps.exp() * (logps.clamp(min=-1e4) + entropy)
        if transform.softcap is not None:
            at_target *= 1.0 - (target_logits / transform.factor).square()
        self._row_scale, self.at_target = row_scale[:, None], at_target[:, None]

    def overwrite(self, x: Float[Tensor, "m v"], rows: slice, work: Workspace) -> Float[Tensor, "m v"]:
        """Return dL/dx of a block, given inner(x), right everywhere but at the targets; overwrites the block."""
        transform = self._transform
        bend = None if transform.softcap is None else work.spare("bend", x).copy_(x)
        u = torch.add(self._minus_lse[rows], x, alpha=transform.factor, out=x)
        if self._entropy_terms is None:
            grad = u.exp_()
        else:
            constant, e = (term[rows] for term in self._entropy_terms)
            probability = torch.exp(u, out=work.spare("spare", u))
            # exp(-1e4) is 0: the floor only keeps 0 * -inf away.
            grad = u.clamp_(min=-1e4).mul_(e).add_(constant).mul_(probability)
        grad.mul_(self._row_scale[rows])
        if bend is not None:
            grad.addcmul_(grad, bend.square_(), value=-1.0)
        return grad

    def find_targets(self, rows: slice, vocab: slice) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"]]:
        """Return the places of the targets in a flattened tile, and which of them lie in it."""
        local, width = self.targets[rows] - vocab.start, vocab.stop - vocab.start
        starts = torch.arange(local.shape[0], device=local.device) * width
        return starts + local.clamp(0, width - 1), (local >= 0) & (local < width)

    def put_targets(
        self, dlogits: Float[Tensor, "n v"], rows: slice, places: tuple[Tensor, Tensor], *, as_zero: bool
    ) -> None:
        """Write dL/dx of the targets that lie in a tile, or 0; no synchronisation with an accelerator."""
        index, inside = places
        flat = dlogits.view(-1)  # scatter_ on the tile itself takes a millisecond on the CPU
        entries = 0.0 if as_zero else self.at_target[rows, 0].to(flat.dtype)
        flat.index_put_((index,), torch.where(inside, entries, flat[index]))
