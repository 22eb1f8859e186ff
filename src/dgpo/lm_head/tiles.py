"""Tiles of the matrix products around a head: sizes, reused workspaces, fp32 sums of low-precision parts."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from dgpo.lm_head.types import statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor


class Tiling(NamedTuple):
    """How many rows (tokens) and vocabulary entries a tile has, and how many of its rows are worked on at a time."""

    rows: int
    vocab: int
    block: int


def spans(total: int, step: int) -> Iterator[slice]:
    """Yield consecutive slices of `step` that cover range(total); the last may be shorter."""
    for start in range(0, total, step):
        yield slice(start, min(total, start + step))


def choose_tiling(
    num_rows: int, vocab_size: int, hidden_size: int, compute_dtype: torch.dtype, device: torch.device
) -> Tiling:
    """Return tile sizes: large products on an accelerator, little memory and blocks that stay in cache on the CPU.

    Args:
        num_rows: N, the tokens of a call.
        vocab_size: Entries of the vocabulary, or of a shard of it.
        hidden_size: H of the policy.
        compute_dtype: What the products run in.
        device: Where.

    Returns:
        Sizes of at least 1, no larger than N and the vocabulary need.
    """
    if device.type == "cpu":
        low = compute_dtype.itemsize < 4
        # A low-precision sum over several row tiles costs a second product each (WeightGrad): better few, tall ones.
        rows = max(min(num_rows, 8192 if low else 2048), 1)
        # 2^21 entries are 8 MiB in fp32. Few rows: wider, so that the work done once a tile does not outweigh it, but
        # not so wide that the tile's share of the weight gradient, v x H, takes more than the logits do.
        vocab = min(4096, 2**21 // rows, max(1024, 3 * 2**19 // max(hidden_size, 1) // 256 * 256))
        vocab = min(vocab_size, max(512 if low else 1024, vocab))
        # Larger than two or three blocks that fit the cache: smaller ones cost more in calls of torch than they save.
        entries = _cache_bytes() // 4 * torch.get_num_threads()
        return Tiling(rows, vocab, max(8, entries // vocab))
    # Gradient sums are read and written once a tile, 8 H (rows + vocab) bytes of it: a square tile moves the least.
    # 4096 x 8192 in fp32 is 128 MiB.
    rows = max(min(num_rows, 4096), 1)
    return Tiling(rows, min(vocab_size, 8192), rows)


@cache
def _cache_bytes() -> int:
    """Return the size of one core's second-level cache: what is worked on elementwise should stay in there."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip()
        return min(max(int(size.removesuffix("K")) * 1024, 2**18), 2**21)
    except (OSError, ValueError):
        return 2**19


def projection_dtype(compute_dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which products of `compute_dtype` are fastest on a device: itself, or float32.

    A processor without instructions for bfloat16 or float16 products emulates them, ten to two hundred times slower
    than it multiplies in float32, and rounds them besides.
    """
    if device.type != "cpu" or compute_dtype not in (torch.bfloat16, torch.float16):
        return compute_dtype
    return compute_dtype if _multiplies_natively(compute_dtype) else torch.float32


@cache
def _multiplies_natively(dtype: torch.dtype) -> bool:
    """Whether this processor has matrix instructions for a dtype of 16 bits, as far as torch can tell."""
    names = {torch.bfloat16: ("avx512_bf16", "amx_tile"), torch.float16: ("amx_fp16",)}[dtype]
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in names)


@cache
def _onednn_is_faster() -> bool:
    """Whether float32 products belong to oneDNN on this processor.

    MKL, which torch.mm calls, holds itself to AVX2 where the maker is not Intel: with AVX-512 oneDNN is about twice as
    fast there. The op is the one that torch's own compiler emits for linear layers; without it, torch.mm.
    """
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        vendor = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("vendor_id"))
        return "Intel" not in vendor and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    except (OSError, StopIteration):
        return False


class Workspace:
    """Buffers and products of one pass over the tiles; nothing is allocated per tile.

    A logits tile has the dtype that the device's matrix product gives: fp32 on an accelerator, whose products of low
    precision can be kept unrounded, and the compute dtype on the CPU. Elementwise work is done on fp32 blocks of it.
    """

    def __init__(self, tiling: Tiling, compute_dtype: torch.dtype, device: torch.device) -> None:
        self.tiling, self.compute_dtype, self.device = tiling, compute_dtype, device
        self.stat_dtype = statistics_dtype(compute_dtype)
        self.is_low = compute_dtype != self.stat_dtype
        self.wide_out = self.is_low and device.type == "cuda"
        self.by_onednn = compute_dtype == torch.float32 and device.type == "cpu" and _onednn_is_faster()
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "rows columns"]:
        """Return a contiguous (rows, columns) view of the buffer called `name`, which grows as needed."""
        rows, columns = shape
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < rows * columns:
            flat = self._buffers[name] = torch.empty(rows * columns, dtype=dtype, device=self.device)
        return flat[: rows * columns].view(rows, columns)

    def weight_rows(self, name: str, weight: Float[Tensor, "V H"], start: int, stop: int) -> Float[Tensor, "v H"]:
        """Return rows of a weight in the compute dtype: the rows themselves, or a copy where they must be cast."""
        rows = weight[start:stop]
        if rows.dtype == self.compute_dtype and rows.is_contiguous():
            return rows
        return self.buffer(name, rows.shape, self.compute_dtype).copy_(rows)

    def project(self, name: str, hidden: Float[Tensor, "n H"], weight: Float[Tensor, "v H"]) -> Float[Tensor, "n v"]:
        """Return hidden @ weight.T in the buffer called `name`."""
        if self.wide_out:
            tile = self.buffer(name, (hidden.shape[0], weight.shape[0]), self.stat_dtype)
            return torch.mm(hidden, weight.t(), out_dtype=self.stat_dtype, out=tile)
        return self.product(name, hidden, weight.t())

    def product(self, name: str, a: Float[Tensor, "m k"], b: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
        """Return a @ b in the compute dtype, in the buffer called `name` where the faster way to it can use one."""
        if self.by_onednn and a.numel() and b.numel():
            return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
        return torch.mm(a, b, out=self.buffer(name, (a.shape[0], b.shape[1]), self.compute_dtype))

    def block(self, name: str, tile: Float[Tensor, "n v"], start: int) -> Float[Tensor, "m v"]:
        """Return a block of a tile's rows in fp32: the rows themselves where they are, else a copy of them."""
        rows = tile[start : start + self.tiling.block]
        if rows.dtype == self.stat_dtype:
            return rows
        return self.buffer(name, rows.shape, self.stat_dtype).copy_(rows)

    def spare(self, name: str, block: Float[Tensor, "m v"]) -> Float[Tensor, "m v"]:
        """Return a buffer of the shape of a block."""
        return self.buffer(name, block.shape, block.dtype)


class HiddenGrad:
    """The gradient of the hidden states, summed over the vocabulary tiles in fp32."""

    def __init__(self, hidden: Float[Tensor, "N H"], work: Workspace) -> None:
        self._work = work
        self.total = torch.zeros(hidden.shape, dtype=work.stat_dtype, device=hidden.device)

    def add(self, rows: slice, dlogits: Float[Tensor, "n v"], weight: Float[Tensor, "v H"]) -> None:
        """Add the share of one tile, dlogits @ weight."""
        work, total = self._work, self.total[rows]
        if work.wide_out:
            torch.addmm(total, dlogits, weight, out_dtype=work.stat_dtype, out=total)
        elif work.is_low or work.by_onednn:
            total.add_(work.product("hidden_grad", dlogits, weight))
        else:
            total.addmm_(dlogits, weight)

    def add_entries(
        self, columns: Int[Tensor, " N"], entries: Float[Tensor, " N"], weight: Float[Tensor, "V H"]
    ) -> None:
        """Add one entry of dlogits per row, in fp32: the large ones, which a rounded product would lose digits of."""
        step = self._work.tiling.rows
        columns = columns.clamp(0, weight.shape[0] - 1)
        for start in range(0, self.total.shape[0], step):
            rows = slice(start, start + step)
            chosen = weight[columns[rows]].to(self._work.compute_dtype).to(self.total.dtype)
            self.total[rows].addcmul_(chosen, entries[rows, None])


class WeightGrad:
    """The gradient of the weight: fp32 sums over the row tiles, each of its rows written once."""

    def __init__(self, hidden: Float[Tensor, "N H"], weight: Float[Tensor, "V H"], work: Workspace) -> None:
        self._work, self._hidden = work, hidden
        self.total = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        # oneDNN is nearly twice as fast on H' @ dlogits as on dlogits' @ H in bf16, transposing the result included.
        self._transposed = work.is_low and not work.wide_out
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
            # What rounding the part to the compute dtype has lost, so that several row tiles are as good as one.
            self._sum.add_(torch.addmm(part, self._hidden[:, rows], dlogits, beta=-1))
        else:
            self._add_wide(dlogits.t(), self._hidden[rows], out)
        if is_last and self._sum is not None:
            if self._sum.data_ptr() != out.data_ptr():
                out.copy_(self._sum.t() if self._transposed else self._sum)
            self._sum = None

    def _add_wide(self, dlogits_t: Float[Tensor, "v n"], hidden: Float[Tensor, "n H"], out: Tensor) -> None:
        """Add a product whose result is fp32, in place where the gradient itself is fp32."""
        work = self._work
        is_first = self._sum is None
        if self._sum is None:
            in_place = out.dtype == work.stat_dtype
            self._sum = out if in_place else work.buffer("weight_sum", out.shape, work.stat_dtype)
        if work.wide_out and is_first:
            torch.mm(dlogits_t, hidden, out_dtype=work.stat_dtype, out=self._sum)
        elif work.wide_out:
            torch.addmm(self._sum, dlogits_t, hidden, out_dtype=work.stat_dtype, out=self._sum)
        elif work.by_onednn:
            part = work.product("weight_grad", dlogits_t, hidden)
            _ = self._sum.copy_(part) if is_first else self._sum.add_(part)
        elif is_first:
            torch.mm(dlogits_t, hidden, out=self._sum)
        else:
            self._sum.addmm_(dlogits_t, hidden)
