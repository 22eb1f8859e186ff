"""The choice of an implementation: `impl`, dtype and device decide."""

import os
import warnings
from functools import cache

import torch

from dgpo.lm_head.streamed import streamed_stats
from dgpo.lm_head.tile_ops import TileOps
from dgpo.lm_head.tiles_torch import TORCH_TILES
from dgpo.lm_head.types import Head, LogitTransform


def choose_tile_ops(
    impl: str, compute_dtype: torch.dtype, device: torch.device, *, is_split: bool = False
) -> TileOps | None:
    """Return the tile operations that run, or None for the implementation that holds all of the logits.

    Args:
        impl: "auto", "streamed", "triton" or "reference".
        compute_dtype: The requested dtype of the projections.
        device: Where the hidden states are.
        is_split: Whether the vocabulary is split over ranks, which is always streamed.

    Returns:
        The operations; for "auto" Triton's where they run, else torch's, and None in float64.

    Raises:
        ValueError: If `impl` is unknown or cannot run here.
    """
    if impl not in ("auto", "streamed", "triton", "reference"):
        raise ValueError(f"impl={impl!r} is not known; pass 'auto', 'streamed', 'triton' or 'reference'.")
    if impl == "reference" and is_split:
        raise ValueError("impl='reference' holds whole logits and is not for shards; pass impl='auto'.")
    is_float64 = compute_dtype == torch.float64
    if impl == "triton":
        if is_float64:
            raise ValueError("impl='triton' computes in float32 and hidden is float64; pass impl='auto'.")
        return _required_triton_tiles(device)
    if impl == "auto" and device.type == "cuda" and not is_float64:
        tile_ops = load_triton_tiles(device)
        return TORCH_TILES if isinstance(tile_ops, str) else tile_ops
    holds_logits = impl == "reference" or (impl == "auto" and is_float64 and not is_split)
    return None if holds_logits else TORCH_TILES


def _required_triton_tiles(device: torch.device) -> TileOps:
    """Return the operations by Triton; raise with the reason where they do not run."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl='triton' needs a CUDA device and hidden is on {device}; pass impl='auto'. (TRITON_INTERPRET=1, set"
            " before Triton is imported, runs the kernels slowly on a CPU, for tests.)"
        )
    tile_ops = load_triton_tiles(device)
    if isinstance(tile_ops, str):
        raise ValueError(f"impl='triton' does not run on {device}: {tile_ops}. Pass impl='auto'.")
    return tile_ops


@cache
def load_triton_tiles(device: torch.device) -> TileOps | str:
    """Return the tile operations by Triton, or the reason why they do not run on a device; tried once."""
    try:
        from dgpo.lm_head.tiles_triton import TRITON_TILES
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    try:
        # The result is cached, so it must not depend on the grad mode of the first caller.
        with torch.inference_mode(False), torch.enable_grad():
            check_tiles(TRITON_TILES, device)
    except Exception as error:  # a compiler that is missing, a driver too old: training goes on without the kernels
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"Triton's kernels do not run on {device} ({reason}); the slower torch implementation of the LM head's"
            " statistics is used. Usually a C compiler or Python's headers are missing.",
            RuntimeWarning,
            stacklevel=2,
        )
        return f"its kernels failed there with {reason.rstrip('.')}"
    return TRITON_TILES


def check_tiles(tile_ops: TileOps, device: torch.device) -> None:
    """Run tile operations on a few numbers and compare the result with torch's.

    Args:
        tile_ops: The operations.
        device: Where they are to run.

    Raises:
        Exception: Whatever Triton raises where it cannot compile or launch (no C compiler, an unknown device).
        RuntimeError: If they run and the result differs from torch's.
    """
    # Sixteenths of small integers, exact under any rounding of a multiplication by 1. Every row has amplitudes of
    # another norm, none of them a power of two, which would hide a division that rounds.
    positions = torch.arange(64 * 16, device=device).view(64, 16)
    hidden = ((positions * 37 % 101 - 50).float() / 16).requires_grad_()
    head = Head(hidden, torch.eye(16, dtype=torch.float32, device=device), None)
    targets = positions[:, 0] // 16 % 16
    stats = streamed_stats(head, head, targets, LogitTransform(), torch.float32, tile_ops=tile_ops)
    expected = torch.log_softmax(hidden, 1).gather(1, targets[:, None])[:, 0]
    (grad,), (expected_grad,) = (torch.autograd.grad(x.sum(), hidden) for x in (stats.logps, expected))
    for name, ours, true in (("log-probabilities", stats.logps, expected), ("gradients", grad, expected_grad)):
        if not torch.allclose(ours, true, rtol=0.0, atol=2e-3):  # gradients are multiplied in TF32 where that is on
            raise RuntimeError(f"their {name} are off by {(ours - true).abs().max().item():.1g}")
    if stats.hellinger_sq is None or stats.hellinger_sq.any():
        raise RuntimeError("d of equal policy and reference is not exactly 0")
