"""Running statistics of a token over pieces of its vocabulary: tiles of one head, or shards of several processes.

The online softmax of two heads, with what entropy and Hellinger distance need besides.


With policy logits z, reference logits y, and, over the entries seen so far, mz = max z and my = max y,

    a_v = exp((z_v - mz) / 2)      sz = |a|^2 = sum_v exp(z_v - mz)      tz = sum_v exp(z_v - mz) (z_v - mz)
    b_v = exp((y_v - my) / 2)      sy = |b|^2 = sum_v exp(y_v - my)      D = |a||b| - a.b

sqrt(p_v) = a_v / |a| and sqrt(q_v) = b_v / |b| over the whole vocabulary, therefore at the end

    log p_t = z_t - mz - log sz      entropy = log sz - tz / sz      d = 1 - sum_v sqrt(p_v q_v) = D / (|a||b|)

D is accumulated instead of a.b because 1 - a.b / (|a||b|) cancels where p and q are close, as they are in healthy
training. No step below subtracts nearly equal sums, so d is never negative and exactly 0 for equal rows:

  in a piece     D = 1/2 |a||b| |a/|a| - b/|b||^2 = 1/2 (|b|/|a|) |a - (|a|/|b|) b|^2
  merging two    D = D1 + D2 + (|a1||b2| - |a2||b1|)^2 / (|a||b| + |a1||b1| + |a2||b2|)

The second follows from a.b = a1.b1 + a2.b2 and Lagrange's identity
|a|^2 |b|^2 = (|a1||b1| + |a2||b2|)^2 + (|a1||b2| - |a2||b1|)^2. Parts are rescaled to the common maxima first:
|a_i| and |b_i| by exp of half the difference, D_i by their product.

A piece whose entries are all -inf counts as empty: its maximum is the finite `EMPTY_MAX`, so that no inf - inf arises,
its sums are 0, and merging it changes nothing. Merging is commutative, and associative up to rounding.
"""

import math
from typing import NamedTuple

import torch

from dgpo.lm_head.types import LMHeadStats
from dgpo.tensor_types import Float, Tensor

EMPTY_MAX = -1e30


class PolicyState(NamedTuple):
    """Maximum and sums of the policy's logits, each (N,)."""

    mz: Float[Tensor, " N"]
    sz: Float[Tensor, " N"]
    tz: Float[Tensor, " N"]


class PairState(NamedTuple):
    """Maxima and sums of both heads' logits and the gap D between their amplitudes, each (N,)."""

    mz: Float[Tensor, " N"]
    sz: Float[Tensor, " N"]
    tz: Float[Tensor, " N"]
    my: Float[Tensor, " N"]
    sy: Float[Tensor, " N"]
    D: Float[Tensor, " N"]


# exp2 is torch's own vector code; exp goes to MKL, which takes four times as long on some processors. The maximum is
# subtracted before the factor: log2(e) times logits around 1e4 would be rounded to 1e-3.
HALF_LOG2_E = 0.5 * math.log2(math.e)


def _amplitudes(x: Float[Tensor, "n v"], factor: float, scratch: Tensor, high: Tensor, norm: Tensor) -> Tensor:
    """Return the amplitudes of logits factor * x in `scratch`; write max and |a|; x becomes their base-2 logarithms."""
    torch.amax(x, 1, out=high).clamp_(min=EMPTY_MAX / factor)
    x.sub_(high[:, None]).mul_(HALF_LOG2_E * factor)
    high.mul_(factor)
    amplitude = torch.exp2(x, out=scratch)
    torch.linalg.vector_norm(amplitude, dim=1, out=norm)
    return amplitude


def _entropy_sum(log2_amplitude: Tensor, amplitude: Tensor, out: Tensor) -> None:
    # An entry of -inf has amplitude 0 and adds nothing, but 0 * -inf is nan: the sum skips it. A nan of the logits
    # still reaches every statistic, through the amplitudes and sz.
    torch.nansum(log2_amplitude.mul_(amplitude).mul_(amplitude), 1, out=out).div_(HALF_LOG2_E)


def reduce_policy(
    x: Float[Tensor, "n v"], factor: float, scratch: Float[Tensor, "n v"], out: Float[Tensor, "3 n"]
) -> None:
    """Reduce rows of one piece of z = factor * x to what `policy_state` needs, in as few passes as torch allows.

    Args:
        x: The policy's logits up to a factor, (n, v) with v >= 1, float32 or float64; overwritten.
        factor: What makes them logits; > 0.
        scratch: A buffer like x; overwritten.
        out: Receives mz, |a| and tz.
    """
    high, norm, tz = out.unbind()
    _entropy_sum(x, _amplitudes(x, factor, scratch, high, norm), tz)


def reduce_pair(
    x: Float[Tensor, "n v"],
    ref_x: Float[Tensor, "n v"],
    factor: float,
    scratch: Float[Tensor, "n v"],
    out: Float[Tensor, "6 n"],
) -> None:
    """Reduce rows of one piece of z = factor * x and y = factor * ref_x to what `pair_state` needs.

    Args:
        x: The policy's logits up to a factor, (n, v) with v >= 1, float32 or float64; overwritten.
        ref_x: The reference's, like x; overwritten.
        factor: What makes them logits; > 0.
        scratch: A buffer like x; overwritten.
        out: Receives mz, |a|, tz, my, |b| and |a - (|a|/|b|) b|.
    """
    high, norm, tz, ref_high, ref_norm, gap = out.unbind()
    a = _amplitudes(x, factor, scratch, high, norm)
    b = _amplitudes(ref_x, factor, ref_x, ref_high, ref_norm)
    _entropy_sum(x, a, tz)
    # A norm is 0 in an empty piece and otherwise about 1 or more, as the largest amplitude is 1: the floor only keeps
    # 0 / 0 away.
    torch.linalg.vector_norm(a.addcmul_(b, (norm / ref_norm.clamp(min=0.5))[:, None], value=-1.0), dim=1, out=gap)


def policy_state(reduced: Float[Tensor, "3 N"]) -> PolicyState:
    """Return the state of a piece from what `reduce_policy` wrote."""
    mz, norm, tz = reduced.unbind()
    return PolicyState(mz.clone(), norm.square(), tz.clone())


def pair_state(reduced: Float[Tensor, "6 N"]) -> PairState:
    """Return the state of a piece from what `reduce_pair` wrote; D is 0 where either head's piece is empty."""
    _, norm, _, my, ref_norm, gap = reduced.unbind()
    D = gap.square().mul_(0.5 * ref_norm / norm.clamp(min=0.5))
    return PairState(*policy_state(reduced[:3]), my.clone(), ref_norm.square(), D)


def _rescale(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the common maximum, both sums rescaled to it, and the factors they were rescaled by."""
    m = torch.maximum(m1, m2)
    scale1, scale2 = (m1 - m).exp_(), (m2 - m).exp_()
    return m, s1 * scale1, s2 * scale2, scale1, scale2


def merge_policy(first: PolicyState, second: PolicyState) -> PolicyState:
    """Return the state of two disjoint pieces of the vocabulary taken together."""
    mz, sz1, sz2, scale1, scale2 = _rescale(first.mz, first.sz, second.mz, second.sz)
    tz = first.tz * scale1 + (first.mz - mz) * sz1 + second.tz * scale2 + (second.mz - mz) * sz2
    return PolicyState(mz, sz1 + sz2, tz)


def merge_pair(first: PairState, second: PairState) -> PairState:
    """Return the state of two disjoint pieces of the vocabulary taken together, D by Lagrange's identity."""
    # Both heads go through the same operations, so that equal sums stay equal to the last bit and D stays 0.
    mz, sz1, sz2, z_scale1, z_scale2 = _rescale(first.mz, first.sz, second.mz, second.sz)
    my, sy1, sy2, y_scale1, y_scale2 = _rescale(first.my, first.sy, second.my, second.sy)
    sz, sy = sz1 + sz2, sy1 + sy2
    tz = first.tz * z_scale1 + (first.mz - mz) * sz1 + second.tz * z_scale2 + (second.mz - mz) * sz2
    D1 = first.D * z_scale1.sqrt_() * y_scale1.sqrt_()
    D2 = second.D * z_scale2.sqrt_() * y_scale2.sqrt_()
    a1, a2, b1, b2 = sz1.sqrt_(), sz2.sqrt_(), sy1.sqrt_(), sy2.sqrt_()
    crossed = (a1 * b2 - a2 * b1).square_()
    # The denominator is 0 only where one head is empty so far, and then the numerator is too.
    whole = (sz * sy).sqrt_() + a1 * b1 + a2 * b2
    return PairState(mz, sz, tz, my, sy, D1 + D2 + crossed / whole.clamp_(min=1e-38))


def empty_state(num_rows: int, *, pair: bool, dtype: torch.dtype, device: torch.device) -> PolicyState | PairState:
    """Return the state of N tokens over no entries, the neutral element of merging."""
    low = torch.full((num_rows,), EMPTY_MAX, dtype=dtype, device=device)
    zero = torch.zeros_like(low)
    return PairState(low, zero, zero, low, zero, zero) if pair else PolicyState(low, zero, zero)


def finalize(
    state: PolicyState | PairState,
    target_logits: Float[Tensor, " N"],
    ref_target_logits: Float[Tensor, " N"] | None,
    vocab_size: int,
) -> LMHeadStats:
    """Return the statistics from the state of a whole vocabulary and the logits of the targets.

    Args:
        state: The merged state of every piece.
        target_logits: The policy's logits of the targets, (N,).
        ref_target_logits: The reference's, (N,), or None for a policy-only state.
        vocab_size: V; entropies are clamped to log V, which rounding may exceed.

    Returns:
        The four statistics, each (N,); the last two None for a policy-only state. No gradient flows.
    """
    log_sz = state.sz.log()
    # Subtracting the maximum first is exact near it; log-sum-exp of logits around 1e4 would be rounded to 1e-3.
    logps = (target_logits - state.mz) - log_sz
    entropy = (log_sz - state.tz / state.sz).clamp_(min=0.0, max=math.log(vocab_size))
    if not isinstance(state, PairState) or ref_target_logits is None:
        return LMHeadStats(logps, entropy, None, None)
    hellinger_sq = (state.D / (state.sz.sqrt() * state.sy.sqrt())).clamp_(max=1.0)
    return LMHeadStats(logps, entropy, hellinger_sq, (ref_target_logits - state.my) - state.sy.log())
