"""Matrix products of a pass over the tiles: reused buffers, and fp32 sums of low-precision products."""

from functools import cache

import torch

from dgpo.lm_head.tiling import Tiling
from dgpo.lm_head.types import statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor


@cache
def _has_onednn_linear() -> bool:
    """Return whether float32 products run by oneDNN: with AVX-512, where torch has its op.

    MKL, which torch.mm calls, uses AVX2 alone on processors that are not Intel's, and takes about twice as long there.
    The op is the one that torch's own compiler emits for linear layers; where a version lacks it, torch.mm runs.
    """
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_avx512 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Workspace:
    """Buffers and products of one pass over the tiles; nothing is allocated per tile.

    A logits tile has the dtype that the device's matrix product gives: fp32 on an accelerator, whose products of low
    precision can be kept unrounded, and the compute dtype on the CPU. Elementwise work is done on fp32 blocks of it.
    """

    def __init__(self, tiling: Tiling, compute_dtype: torch.dtype, device: torch.device) -> None:
        self.tiling, self.compute_dtype, self.device = tiling, compute_dtype, device
        self.stat_dtype = statistics_dtype(compute_dtype)
        self.is_low = compute_dtype != self.stat_dtype
        self.fp32_output = self.is_low and device.type == "cuda"
        self.by_onednn = compute_dtype == torch.float32 and device.type == "cpu" and _has_onednn_linear()
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "rows columns"]:
        """Return a contiguous (rows, columns) view of the buffer called `name`, which grows as needed."""
        rows, columns = shape
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < rows * columns:
            flat = self._buffers[name] = torch.empty(rows * columns, dtype=dtype, device=self.device)
        return flat[: rows * columns].view(rows, columns)

    def weight_rows(self, name: str, weight: Float[Tensor, "V H"], start: int, stop: int) -> Float[Tensor, "v H"]:
        """Return rows of a weight in the compute dtype: a view, or a copy where they must be cast."""
        rows = weight[start:stop]
        if rows.dtype == self.compute_dtype and rows.is_contiguous():
            return rows
        return self.buffer(name, rows.shape, self.compute_dtype).copy_(rows)

    def project(self, name: str, hidden: Float[Tensor, "n H"], weight: Float[Tensor, "v H"]) -> Float[Tensor, "n v"]:
        """Return hidden @ weight.T in the buffer called `name`."""
        if self.fp32_output:
            tile = self.buffer(name, (hidden.shape[0], weight.shape[0]), self.stat_dtype)
            return torch.mm(hidden, weight.t(), out_dtype=self.stat_dtype, out=tile)
        return self.product(name, hidden, weight.t())

    def product(self, name: str, a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
        """Return a @ b in the compute dtype, in the buffer called `name` where the faster routine takes one."""
        if self.by_onednn and a.numel() and b.numel():
            product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
            return product
        return torch.mm(a, b, out=self.buffer(name, (a.shape[0], b.shape[1]), self.compute_dtype))

    def block(self, name: str, tile: Float[Tensor, "n v"], start: int) -> Float[Tensor, "m v"]:
        """Return a block of a tile's rows in fp32: the rows themselves where they are fp32, else a copy."""
        rows = tile[start : start + self.tiling.block]
        if rows.dtype == self.stat_dtype:
            return rows
        return self.buffer(name, rows.shape, self.stat_dtype).copy_(rows)

    def scratch(self, name: str, block: Float[Tensor, "m v"]) -> Float[Tensor, "m v"]:
        """Return the scratch buffer called `name`, in the shape of a block."""
        return self.buffer(name, block.shape, block.dtype)


class HiddenGrad:
    """The gradient of the hidden states, summed over the vocabulary tiles in fp32."""

    def __init__(self, hidden: Float[Tensor, "N H"], work: Workspace) -> None:
        self._work = work
        self.total = torch.zeros(hidden.shape, dtype=work.stat_dtype, device=hidden.device)

    def add(self, rows: slice, dlogits: Float[Tensor, "n v"], weight: Float[Tensor, "v H"]) -> None:
        """Add the product of one tile, dlogits @ weight."""
        work, total = self._work, self.total[rows]
        if work.fp32_output:
            torch.addmm(total, dlogits, weight, out_dtype=work.stat_dtype, out=total)
        elif work.is_low or work.by_onednn:
            total.add_(work.product("hidden_grad", dlogits, weight))
        else:
            total.addmm_(dlogits, weight)

    def add_entries(
        self, columns: Int[Tensor, " N"], entries: Float[Tensor, " N"], weight: Float[Tensor, "V H"]
    ) -> None:
        """Add one entry of dlogits per row, in fp32: the large ones, which a product would round."""
        step = self._work.tiling.rows
        columns = columns.clamp(0, weight.shape[0] - 1)
        for start in range(0, self.total.shape[0], step):
            rows = slice(start, start + step)
            target_rows = weight[columns[rows]].to(self._work.compute_dtype).to(self.total.dtype)
            self.total[rows].addcmul_(target_rows, entries[rows, None])


class WeightGrad:
    """The gradient of the weight: fp32 sums over the row tiles, each of its rows written once."""

    def __init__(self, hidden: Float[Tensor, "N H"], weight: Float[Tensor, "V H"], work: Workspace) -> None:
        self._work, self._hidden = work, hidden
        self.total = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        # oneDNN is nearly twice as fast on H' @ dlogits as on dlogits' @ H in bf16, transposing the result included.
        self._transposed = work.is_low and not work.fp32_output
        if self._transposed:
            self._hidden = hidden.t().contiguous()
        self._sum: Tensor | None = None

    def add(self, rows: slice, dlogits: Float[Tensor, "n v"], out: Float[Tensor, "v H"], *, is_last: bool) -> None:
        """Add dlogits.T @ hidden[rows]; with the last row tile the sum is written to `out`, rows of `total`."""
        work = self._work
        if self._transposed:
            part = work.product("weight_grad", self._hidden[:, rows], dlogits)
            if self._sum is None and is_last:
                out.copy_(part.t())
                return
            if self._sum is None:
                self._sum = work.buffer("weight_sum", part.shape, work.stat_dtype).zero_()
            self._sum.add_(part)
            # The rounding error of the part, so that several row tiles are as exact as one.
            self._sum.add_(torch.addmm(part, self._hidden[:, rows], dlogits, beta=-1))
        else:
            self._add_fp32(dlogits.t(), self._hidden[rows], out)
        if is_last and self._sum is not None:
            if self._sum.data_ptr() != out.data_ptr():
                out.copy_(self._sum.t() if self._transposed else self._sum)
            self._sum = None

    def _add_fp32(self, dlogits_t: Float[Tensor, "v n"], hidden: Float[Tensor, "n H"], out: Tensor) -> None:
        """Add a product whose result is fp32, in place where the gradient itself is fp32."""
        work = self._work
        is_first = self._sum is None
        if self._sum is None:
            in_place = out.dtype == work.stat_dtype
            self._sum = out if in_place else work.buffer("weight_sum", out.shape, work.stat_dtype)
        if work.fp32_output and is_first:
            torch.mm(dlogits_t, hidden, out_dtype=work.stat_dtype, out=self._sum)
        elif work.fp32_output:
            torch.addmm(self._sum, dlogits_t, hidden, out_dtype=work.stat_dtype, out=self._sum)
        elif work.by_onednn:
            part = work.product("weight_grad", dlogits_t, hidden)
            _ = self._sum.copy_(part) if is_first else self._sum.add_(part)
        elif is_first:
            torch.mm(dlogits_t, hidden, out=self._sum)
        else:
            self._sum.addmm_(dlogits_t, hidden)
