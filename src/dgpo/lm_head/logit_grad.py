"""The gradient of logps and entropy with respect to the logits: each row's terms, from what was saved of it."""

import torch

from dgpo.lm_head.tiles import Workspace
from dgpo.lm_head.types import LogitTransform
from dgpo.tensor_types import Tensor


class LogitGrad:
    """Terms of dL/dx of each row, x = hidden @ weight.T + bias, from which tiles of it are recomputed.

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
