"""Sizes of the tiles that a pass over the vocabulary works on, and the dtype of its matrix products."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

# Elements per thread that elementwise work is done on at a time: 1 MiB in fp32, about a core's second-level cache.
BLOCK_ELEMENTS = 2**18


class Tiling(NamedTuple):
    """Sizes of a tile: rows (tokens), vocabulary entries, and the rows of a block for elementwise work."""

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
        compute_dtype: Dtype of the products.
        device: Device of the products.

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
        return Tiling(rows, vocab, max(8, BLOCK_ELEMENTS * torch.get_num_threads() // vocab))
    # Gradient sums are read and written once a tile, 8 H (rows + vocab) bytes of it: a square tile moves the least.
    # 4096 x 8192 in fp32 is 128 MiB.
    rows = max(min(num_rows, 4096), 1)
    return Tiling(rows, min(vocab_size, 8192), rows)


def projection_dtype(compute_dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype in which products of `compute_dtype` are fastest on a device: itself, or float32.

    A processor without instructions for bfloat16 or float16 products emulates them, ten to two hundred times slower
    than it multiplies in float32, and rounds them besides.
    """
    if device.type != "cpu" or compute_dtype not in (torch.bfloat16, torch.float16):
        return compute_dtype
    instructions = {torch.bfloat16: ("avx512_bf16", "amx_tile"), torch.float16: ("amx_fp16",)}[compute_dtype]
    # An older torch lacks the list: float32 is right there too.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return compute_dtype if any(capabilities.get(name) for name in instructions) else torch.float32
