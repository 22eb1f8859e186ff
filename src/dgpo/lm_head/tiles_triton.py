# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# ruff: noqa: E501
"""The tile operations as fused Triton kernels: every entry is read once forward, and once backward.

The matrix products stay with cuBLAS: a kernel that fused both heads' products would need two accumulators, hence small
tiles, and be slower. One program works on one row of a tile, block by block; the formulas are those of `running_stats`
and `tile_ops`.

Two of them are written so that fused multiply-adds change nothing where policy and reference are equal, and d stays
exactly 0 there: a - (|a|/|b|) b instead of a/|a| - b/|b|, and (|a1| - |b1|) |b2| - (|a2| - |b2|) |b1| for
|a1||b2| - |a2||b1|. For the same reason |a|/|b| is divided with correct rounding: a GPU's `/` is an approximation, by
which x / x need not be 1.
"""

import torch
import triton
import triton.language as tl

from dgpo.lm_head.running_stats import EMPTY_MAX, PairState, PolicyState, empty_state
from dgpo.lm_head.tile_ops import LogitGrad, ProjectedTile, Reduction, TileOps
from dgpo.lm_head.types import LogitTransform
from dgpo.lm_head.workspace import Workspace
from dgpo.tensor_types import Float, Tensor

_EMPTY = tl.constexpr(EMPTY_MAX)


@triton.jit
def _tanh(x):
    """tanh to about one unit in the last place: exp away from 0, a polynomial near 0, where exp would cancel."""
    x2 = x * x
    # tanh(x)/x - 1 is x2 times this Chebyshev fit over x2 in [0, 0.36]; 8e-8 relative error of tanh in fp32.
    p = -0.0062764157 * x2 + 0.021116236
    p = p * x2 - 0.053875145
    p = p * x2 + 0.13332924
    p = p * x2 - 0.33333331
    near = x + x * x2 * p
    u = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - u) / (1.0 + u)
    return tl.where(x2 < 0.36, near, tl.where(x < 0, -far, far))


@triton.jit
def _inner(X, offsets, inside, bias, HAS_BIAS: tl.constexpr, tanh_scale, HAS_SOFTCAP: tl.constexpr):
    """A block of a row of logits up to the transform's factor; -inf outside of the tile."""
    x = tl.load(X + offsets, mask=inside, other=-float("inf")).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + offsets, mask=inside, other=0.0)
    if HAS_SOFTCAP:
        x = tl.where(inside, _tanh(x * tanh_scale), -float("inf"))
    return x


@triton.jit
def _amplitudes(z):
    """Maximum, half the shifted logits, amplitudes and their squared norm, of one block of one head."""
    m = tl.max(z, 0)
    m = tl.where(m == -float("inf"), _EMPTY, m)
    half = 0.5 * (z - m)
    a = tl.exp(half)
    return m, half, a, tl.sum(a * a, 0)


@triton.jit
def _entropy_sum(half, a):
    """sum a^2 (z - m); an entry of -inf adds nothing, where 0 * -inf would be nan."""
    return 2.0 * tl.sum(a * a * tl.maximum(half, -1e4), 0)


@triton.jit
def _accumulate_kernel(
    Z, Y, z_stride, y_stride, z_bias, y_bias, STATE, state_stride, TARGETS, Z_TARGET, Y_TARGET, width, factor, tanh_scale,
    PAIR: tl.constexpr, HAS_ENTROPY: tl.constexpr, HAS_Z_BIAS: tl.constexpr, HAS_Y_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Merge one row of a tile, or of a pair of tiles, into its token's state, and gather its target's projection."""
    row = tl.program_id(0).to(tl.int64)
    Z += row * z_stride
    S = STATE + row
    mz = tl.load(S)
    sz = tl.load(S + state_stride)
    if HAS_ENTROPY:
        tz = tl.load(S + 2 * state_stride)
    target = tl.load(TARGETS + row)
    is_here = (target >= 0) & (target < width)
    if is_here:
        tl.store(Z_TARGET + row, tl.load(Z + target).to(tl.float32))
    if PAIR:
        Y += row * y_stride
        my = tl.load(S + 3 * state_stride)
        sy = tl.load(S + 4 * state_stride)
        D = tl.load(S + 5 * state_stride)
        if is_here:
            tl.store(Y_TARGET + row, tl.load(Y + target).to(tl.float32))
    for start in range(0, width, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < width
        z = _inner(Z, offsets, inside, z_bias, HAS_Z_BIAS, tanh_scale, HAS_SOFTCAP) * factor
        mz2, half, a, sz2 = _amplitudes(z)
        m = tl.maximum(mz, mz2)
        e1 = tl.exp(mz - m)
        e2 = tl.exp(mz2 - m)
        sz1 = sz * e1
        sz2 = sz2 * e2
        if HAS_ENTROPY:
            tz = tz * e1 + (mz - m) * sz1 + _entropy_sum(half, a) * e2 + (mz2 - m) * sz2
        mz = m
        sz = sz1 + sz2
        if PAIR:
            y = _inner(Y, offsets, inside, y_bias, HAS_Y_BIAS, tanh_scale, HAS_SOFTCAP) * factor
            my2, _half, b, sy2 = _amplitudes(y)
            n = tl.maximum(my, my2)
            f1 = tl.exp(my - n)
            f2 = tl.exp(my2 - n)
            # In the block, relative to its own maxima; a norm is 0 in an empty one and otherwise about 1 or more.
            a_norm = tl.sqrt(tl.sum(a * a, 0))
            b_norm = tl.sqrt(sy2)
            gap = a - tl.div_rn(a_norm, tl.maximum(b_norm, 0.5)) * b
            D2 = 0.5 * (b_norm / tl.maximum(a_norm, 0.5)) * tl.sum(gap * gap, 0)
            sy1 = sy * f1
            sy2 = sy2 * f2
            sy = sy1 + sy2
            a1 = tl.sqrt(sz1)
            a2 = tl.sqrt(sz2)
            b1 = tl.sqrt(sy1)
            b2 = tl.sqrt(sy2)
            crossed = (a1 - b1) * b2 - (a2 - b2) * b1
            whole = tl.sqrt(sz) * tl.sqrt(sy) + a1 * b1 + a2 * b2
            D = D * tl.sqrt(e1) * tl.sqrt(f1) + D2 * tl.sqrt(e2) * tl.sqrt(f2)
            D += crossed * crossed / tl.maximum(whole, 1.2e-38)
            my = n
    tl.store(S, mz)
    tl.store(S + state_stride, sz)
    if HAS_ENTROPY:
        tl.store(S + 2 * state_stride, tz)
    if PAIR:
        tl.store(S + 3 * state_stride, my)
        tl.store(S + 4 * state_stride, sy)
        tl.store(S + 5 * state_stride, D)


@triton.jit
def _dlogits_kernel(
    X, x_stride, OUT, out_stride, bias, MINUS_LSE, ROW_SCALE, CONSTANT, E, TARGETS, AT_TARGET, vocab_start, width, factor,
    tanh_scale, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ENTROPY: tl.constexpr,
    ZERO_TARGETS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute dL/dx of one block of a row of a tile; OUT may be X."""
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < width
    x = _inner(X + row * x_stride, offsets, inside, bias, HAS_BIAS, tanh_scale, HAS_SOFTCAP)
    u = x * factor + tl.load(MINUS_LSE + row)
    grad = tl.exp(u) * tl.load(ROW_SCALE + row)
    if HAS_ENTROPY:
        grad *= tl.load(CONSTANT + row) + tl.load(E + row) * tl.maximum(u, -1e4)
    if HAS_SOFTCAP:
        grad -= grad * tl.where(inside, x * x, 0.0)
    at_target = 0.0
    if not ZERO_TARGETS:
        at_target = tl.load(AT_TARGET + row)
    grad = tl.where(offsets == tl.load(TARGETS + row) - vocab_start, at_target, grad)
    tl.store(OUT + row * out_stride + offsets, grad.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def _scatter_targets_kernel(
    OUT, out_stride, TARGETS, AT_TARGET, vocab_start, width, num_rows, ZERO: tl.constexpr, BLOCK: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < num_rows
    local = tl.load(TARGETS + rows, mask=is_row, other=-1) - vocab_start
    inside = is_row & (local >= 0) & (local < width)
    entry = tl.zeros((BLOCK,), tl.float32)
    if not ZERO:
        entry = tl.load(AT_TARGET + rows, mask=is_row, other=0.0)
    tl.store(OUT + rows * out_stride + local, entry.to(OUT.dtype.element_ty), mask=inside)


def _block_and_warps(width: int, largest: int) -> tuple[int, int]:
    """Return the entries that a program works on at a time, and its warps: 16 entries a thread and tile."""
    block = min(largest, triton.next_power_of_2(width))
    return block, max(1, min(8, block // 512))


def _tanh_scale(transform: LogitTransform) -> float:
    return 1.0 if transform.softcap is None else transform.logit_scale / transform.softcap


def _dense(x: Tensor | None) -> Tensor | None:
    """Return a contiguous vector: a column, or a gradient expanded from a scalar, is not."""
    return None if x is None else x.contiguous()


class TritonReduction(Reduction):
    """The forward pass: one kernel a tile merges it into the state, in place."""

    # False in a subclass for log-probabilities alone; the state's tz then stays 0.
    has_entropy = True

    def __init__(self, num_rows: int, *, pair: bool, transform: LogitTransform, work: Workspace) -> None:
        self._transform, self._work = transform, work
        empty = empty_state(num_rows, pair=pair, dtype=torch.float32, device=work.device)
        self._rows = torch.stack(tuple(empty))

    def accumulate(self, rows: slice, policy: ProjectedTile, ref: ProjectedTile | None) -> None:
        """Merge one tile of some rows into their state, and gather the projections of its targets."""
        if rows.stop == rows.start:
            return
        state, z = self._rows[:, rows], policy.values
        other = ref or policy
        block, warps = _block_and_warps(z.shape[1], 2048)
        biases, targets = (_dense(policy.bias), _dense(other.bias)), _dense(policy.targets)
        with torch.cuda.device_of(z):  # Triton launches on the current device, which need not be the tensors'
            _accumulate_kernel[(z.shape[0],)](
                z, other.values, z.stride(0), other.values.stride(0), *biases, state, state.stride(0), targets,
                policy.target_values, other.target_values, z.shape[1], self._transform.factor, _tanh_scale(self._transform),
                PAIR=ref is not None, HAS_ENTROPY=self.has_entropy, HAS_Z_BIAS=policy.bias is not None,
                HAS_Y_BIAS=other.bias is not None, HAS_SOFTCAP=self._transform.softcap is not None, BLOCK=block,
                num_warps=warps,
            )  # fmt: skip

    def finalize_tile(self) -> None:
        """Do nothing: the state is up to date after each tile of rows."""

    def state(self) -> PolicyState | PairState:
        """Return the state over all tiles."""
        return PairState(*self._rows) if len(self._rows) == 6 else PolicyState(*self._rows)


class TritonLogitGrad(LogitGrad):
    """The backward pass: one kernel a tile computes dL/dx of projections, in place where the dtypes allow it."""

    def dlogits(
        self, tile: Float[Tensor, "n v"], rows: slice, vocab: slice, bias: Tensor | None, *, zero_targets: bool
    ) -> Float[Tensor, "n v"]:
        """Return dL/dx of a tile in the compute dtype, 0 or the true value at the targets; overwrites the tile."""
        out, transform = tile, self.transform
        if tile.dtype != self.work.compute_dtype:
            out = self.work.buffer("dlogits", (tile.shape[0], tile.shape[1]), self.work.compute_dtype)
        constant, e = (self.row_scale, self.row_scale) if self.entropy_terms is None else self.entropy_terms
        per_row = (self.minus_lse, self.row_scale, constant, e, self.targets, self.at_target)
        vectors = [_dense(bias), *(_dense(x[rows]) for x in per_row)]
        block, warps = _block_and_warps(tile.shape[1], 4096)
        with torch.cuda.device_of(tile):
            _dlogits_kernel[(tile.shape[0], triton.cdiv(tile.shape[1], block))](
                tile, tile.stride(0), out, out.stride(0), *vectors, vocab.start, tile.shape[1], transform.factor,
                _tanh_scale(transform), HAS_BIAS=bias is not None, HAS_SOFTCAP=transform.softcap is not None,
                HAS_ENTROPY=self.entropy_terms is not None, ZERO_TARGETS=zero_targets, BLOCK=block, num_warps=warps,
            )  # fmt: skip
        return out

    def scatter_targets(self, dlogits: Float[Tensor, "n v"], rows: slice, vocab: slice, *, as_zero: bool) -> None:
        """Write dL/dx of the targets that lie in a tile, or 0."""
        num_rows, width = dlogits.shape
        vectors = (_dense(self.targets[rows]), _dense(self.at_target[rows]))
        with torch.cuda.device_of(dlogits):
            _scatter_targets_kernel[(triton.cdiv(num_rows, 256),)](
                dlogits, dlogits.stride(0), *vectors, vocab.start, width, num_rows, ZERO=as_zero, BLOCK=256,
            )  # fmt: skip


TRITON_TILES = TileOps(TritonReduction, TritonLogitGrad)
