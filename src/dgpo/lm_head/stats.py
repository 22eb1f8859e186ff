"""The one public operation on LM heads: it checks its arguments and chooses an implementation."""

import os
import warnings
from functools import cache

import torch

from dgpo.core.checks import check_positive
from dgpo.lm_head.reference import reference_stats
from dgpo.lm_head.streamed import TORCH_TILES, TileWork, streamed_stats
from dgpo.lm_head.tiles import projection_dtype
from dgpo.lm_head.types import Head, LMHeadStats, LogitTransform
from dgpo.tensor_types import Float, Int, Tensor


def lm_head_stats(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    targets: Int[Tensor, " N"],
    *,
    ref_hidden: Float[Tensor, "N G"] | None = None,
    ref_weight: Float[Tensor, "V G"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    ref_bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    impl: str = "auto",
) -> LMHeadStats:
    """Return log-probability, entropy and squared Hellinger distance per token from hidden states.

    With logits z = x * logit_scale, z = softcap * tanh(z / softcap) if there is a softcap, z = z / temperature, for
    x = hidden @ weight.T + bias and likewise for the reference, p = softmax(z), q = softmax(z_ref):

        logps = log p_t                           entropy = - sum_v p_v log p_v
        hellinger_sq = 1 - sum_v sqrt(p_v q_v)    ref_logps = log q_t

    (d of arXiv:2605.03327, and its h before the division by log V.) Under `torch.autocast` the projections run in its
    dtype, otherwise in the dtype of `hidden`; everything after them is float32, or float64 where `hidden` is. On a
    processor that has no instructions for bfloat16 (float16) products they run in float32, which is faster and rounds
    less.

    Args:
        hidden: Final hidden states of the policy, (N, H), any float dtype.
        weight: The policy's head, (V, H); cast tile by tile to the dtype of the projection.
        targets: Token ids, (N,) int64 in [0, V). Checked on the CPU; on an accelerator, where looking would mean
            waiting for it, the streamed implementation gives an id outside a nan log-probability.
        ref_hidden: Final hidden states of the reference, (N, G), or None for the policy's statistics alone.
        ref_weight: The reference's head, (V, G). None with `ref_hidden` given: the reference shares the policy's
            weight and bias, as it does under LoRA or with a frozen head.
        bias: The policy's head bias, (V,); -inf rules a token out.
        ref_bias: The reference's head bias, (V,); only together with `ref_weight`.
        temperature: Sampling temperature, > 0; applies to both heads.
        logit_scale: What projections are multiplied by, > 0 (Cohere, Granite).
        softcap: Final logit softcapping, > 0 (Gemma); None for none.
        impl: "streamed" holds tiles of the logits, "triton" works on the same tiles by fused kernels (CUDA);
            "reference" holds all of the logits and is the oracle of the tests. "auto" is "triton" where it runs, else
            "streamed", and "reference" where the projection runs in float64.

    Returns:
        Four tensors of (N,): a gradient flows from logps and entropy to hidden, weight and bias, and none from
        hellinger_sq and ref_logps, which are None without `ref_hidden`.

    Raises:
        ValueError: If shapes, dtypes, devices or options do not fit, or impl="triton" cannot run here; the message
            names the value and the remedy.

    Example:
        >>> import torch
        >>> head = torch.tensor([[0.98], [0.02]]).log()           # one hidden unit, two tokens
        >>> stats = lm_head_stats(
        ...     torch.tensor([[1.0]]), head, torch.tensor([0]), ref_hidden=torch.tensor([[0.0]])
        ... )
        >>> round(stats.logps.item(), 4), round(stats.ref_logps.item(), 4)    # log .98, log .5
        (-0.0202, -0.6931)
        >>> round(stats.hellinger_sq.item(), 4)    # 1 - (sqrt(.98 * .5) + sqrt(.02 * .5)) = 1 - (.7 + .1)
        0.2
    """
    policy, ref = checked_heads((hidden, weight, bias), (ref_hidden, ref_weight, ref_bias))
    check_targets(targets, policy)
    transform = checked_transform(temperature, logit_scale, softcap)
    compute_dtype = autocast_dtype(hidden)
    impl = choose_impl(impl, compute_dtype, hidden.device)
    if impl == "reference":
        return reference_stats(policy, ref, targets, transform, compute_dtype)
    tile_work = tile_work_of(impl, hidden.device)
    compute_dtype = projection_dtype(compute_dtype, hidden.device)
    return streamed_stats(policy, ref, targets, transform, compute_dtype, tile_work=tile_work)


def checked_heads(
    given: tuple[Tensor, Tensor, Tensor | None],
    ref_given: tuple[Tensor | None, Tensor | None, Tensor | None],
    *,
    may_be_empty: bool = False,
) -> tuple[Head, Head | None]:
    """Return the policy's and the reference's head from hidden, weight and bias of each, or refuse them.

    Args:
        given: The policy's hidden, weight and bias.
        ref_given: The reference's, as the caller passed them; without a weight it shares the policy's weight and bias.
        may_be_empty: Whether a weight may have no rows, as a shard of a vocabulary may.

    Returns:
        Both heads; None for the reference if there is none.
    """
    policy = Head(*given)
    ref: Head | None = None
    ref_hidden, ref_weight, ref_bias = ref_given
    if ref_hidden is not None:
        ref = Head(ref_hidden, policy.weight, policy.bias) if ref_weight is None else Head(*ref_given)  # type: ignore[arg-type]
    _check_heads(policy, ref, (ref_weight, ref_bias))
    if policy.weight.shape[0] == 0 and not may_be_empty:
        raise ValueError("weight has no rows: a vocabulary needs at least one token.")
    return policy, ref


def checked_transform(temperature: float, logit_scale: float, softcap: float | None) -> LogitTransform:
    """Return the way from projections to logits, or refuse a number that is not above 0."""
    hint = "Sampling at temperature 0 is greedy and has no distribution: pass what was sampled at, 1.0 unless changed."
    temperature = check_positive("temperature", temperature, hint)
    logit_scale = check_positive("logit_scale", logit_scale, "Pass 1.0 for logits that are not scaled.")
    if softcap is not None:
        softcap = check_positive("softcap", softcap, "Pass None for logits that are not capped.")
    return LogitTransform(logit_scale, softcap, temperature)


def autocast_dtype(hidden: Tensor) -> torch.dtype:
    """Return what projections of `hidden` are asked to run in: autocast's dtype under autocast, or its own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def choose_impl(impl: str, compute_dtype: torch.dtype, device: torch.device) -> str:
    """Return the name of the implementation that runs."""
    if impl not in ("auto", "streamed", "triton", "reference"):
        raise ValueError(f"impl={impl!r} is not known; pass 'auto', 'streamed', 'triton' or 'reference'.")
    if compute_dtype == torch.float64:
        if impl == "triton":
            raise ValueError("impl='triton' computes in float32 and hidden is float64; pass impl='auto'.")
        return "reference" if impl == "auto" else impl
    if impl == "auto":
        return "triton" if device.type == "cuda" and not isinstance(_triton_tiles(device), str) else "streamed"
    return impl


def tile_work_of(impl: str, device: torch.device) -> TileWork:
    """Return what works on the tiles for "streamed" or "triton", or say why the latter cannot."""
    if impl == "streamed":
        return TORCH_TILES
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl='triton' needs a CUDA device and hidden is on {device}; pass impl='auto'. (TRITON_INTERPRET=1, set"
            " before Triton is imported, runs the kernels slowly on a CPU, for tests.)"
        )
    tile_work = _triton_tiles(device)
    if isinstance(tile_work, str):
        raise ValueError(f"impl='triton' does not run on {device}: {tile_work}. Pass impl='auto'.")
    return tile_work


@cache
def _triton_tiles(device: torch.device) -> TileWork | str:
    """Return the work on tiles by Triton if it runs on a device, or the reason why not; tried once."""
    try:
        from dgpo.lm_head import triton_tiles
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    try:
        # The answer is kept for good, so it must not depend on the mode that the first caller happens to be in.
        with torch.inference_mode(False), torch.enable_grad():
            triton_tiles.check_on(device)
    except Exception as error:  # a compiler that is missing, a driver too old: training goes on without the kernels
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"Triton's kernels do not run on {device} ({reason}); the slower torch"
            " implementation of the LM head's statistics is used. A C compiler and Python's headers are what is"
            " mostly missing.",
            RuntimeWarning,
            stacklevel=2,
        )
        return f"its kernels failed there with {reason.rstrip('.')}"
    return triton_tiles.TRITON_TILES


def _check_heads(policy: Head, ref: Head | None, given: tuple[Tensor | None, Tensor | None]) -> None:
    """Refuse heads that do not fit together; `given` are ref_weight and ref_bias as the caller passed them."""
    if ref is None and (given[0] is not None or given[1] is not None):
        raise ValueError(
            "ref_weight or ref_bias was passed without ref_hidden; pass the reference's hidden states too."
        )
    if given[0] is None and given[1] is not None:
        raise ValueError(
            "ref_bias was passed without ref_weight: without ref_weight the reference shares the policy's weight and"
            " bias. Pass both, or neither."
        )
    _check_head("", policy, policy.hidden.device)
    if ref is None:
        return
    _check_head("ref_", ref, policy.hidden.device)
    if ref.hidden.shape[0] != policy.hidden.shape[0]:
        raise ValueError(
            f"ref_hidden has {ref.hidden.shape[0]} rows but hidden has {policy.hidden.shape[0]}. Both must be of the"
            " same tokens: select the same positions from policy and reference."
        )
    if ref.weight.shape[0] != policy.weight.shape[0]:
        raise ValueError(
            f"ref_weight has a vocabulary of {ref.weight.shape[0]} but weight has {policy.weight.shape[0]}. The"
            " Hellinger distance compares probabilities token by token: use a reference with the same tokenizer, and"
            " where only padding rows differ, cut both heads to the tokenizer's size."
        )


def _check_head(prefix: str, head: Head, device: torch.device) -> None:
    """Refuse a head whose parts do not fit together."""
    for name, tensor, dims in zip(("hidden", "weight", "bias"), head, (2, 2, 1), strict=True):
        if tensor is None:
            continue
        shape = ("(N, H)", "(V, H)", "(V,)")[("hidden", "weight", "bias").index(name)]
        if tensor.dim() != dims:
            raise ValueError(
                f"{prefix}{name} must have shape {shape}, got {tuple(tensor.shape)}. Flatten batch and time first:"
                " x.flatten(0, -2)."
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{prefix}{name} must be a float tensor, got {tensor.dtype}. Dequantize the head first.")
        if tensor.device != device:
            raise ValueError(f"{prefix}{name} is on {tensor.device} but hidden is on {device}; move it there.")
    if head.hidden.shape[1] != head.weight.shape[1]:
        remedy = " A reference of another hidden size needs its own ref_weight." if prefix else ""
        raise ValueError(
            f"{prefix}hidden has hidden size {head.hidden.shape[1]} but its head has {head.weight.shape[1]}:"
            f" weight must be (V, H) for hidden of (N, H).{remedy}"
        )
    if head.bias is not None and head.bias.shape[0] != head.weight.shape[0]:
        raise ValueError(
            f"{prefix}bias has {head.bias.shape[0]} entries but {prefix}weight has {head.weight.shape[0]} rows;"
            " both are one per token of the vocabulary."
        )


def check_targets(targets: Tensor, policy: Head) -> None:
    """Refuse targets that do not fit the rows of hidden, or name no token of the vocabulary."""
    check_targets_shape(targets, policy)
    # Only where it is cheap: on an accelerator the comparison would wait for everything queued before it.
    if targets.device.type == "cpu" and targets.shape[0] > 0:
        lowest, highest = (int(x) for x in targets.aminmax())
        check_targets_range(lowest, highest, policy.weight.shape[0])


def check_targets_shape(targets: Tensor, policy: Head) -> None:
    """Refuse targets of another dtype, shape or device."""
    num_rows = policy.hidden.shape[0]
    if targets.dtype != torch.int64 or targets.shape != (num_rows,):
        raise ValueError(
            f"targets must be int64 of shape ({num_rows},), one token id per row of hidden, got {targets.dtype} of"
            f" shape {tuple(targets.shape)}. Flatten it like hidden, and cast it with .long()."
        )
    if targets.device != policy.hidden.device:
        raise ValueError(f"targets is on {targets.device} but hidden is on {policy.hidden.device}; move it there.")


def check_targets_range(lowest: int, highest: int, vocab_size: int) -> None:
    """Refuse token ids outside of the vocabulary."""
    if lowest < 0 or highest >= vocab_size:
        worst = lowest if lowest < 0 else highest
        raise ValueError(
            f"targets contains {worst}, outside the vocabulary [0, {vocab_size}). Give padding and ignored"
            " positions any valid id (0, say) and mask their results."
        )
