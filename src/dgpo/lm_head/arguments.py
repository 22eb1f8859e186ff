"""Checks of the arguments of `lm_head_stats`: heads that fit together, target ids, the transform of the logits."""

import torch

from dgpo.core.numbers import check_positive
from dgpo.lm_head.types import Head, LogitTransform
from dgpo.tensor_types import Tensor


def check_heads(
    policy_tensors: tuple[Tensor, Tensor, Tensor | None],
    ref_tensors: tuple[Tensor | None, Tensor | None, Tensor | None],
    *,
    may_be_empty: bool = False,
) -> tuple[Head, Head | None]:
    """Return the policy's and the reference's head.

    Args:
        policy_tensors: The policy's hidden, weight and bias.
        ref_tensors: The reference's, as passed by the caller; without a weight it shares the policy's weight and bias.
        may_be_empty: Whether a weight may have no rows, as a shard of a vocabulary may.

    Returns:
        Both heads; None for the reference if there is none.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit.
    """
    policy = Head(*policy_tensors)
    ref: Head | None = None
    ref_hidden, ref_weight, ref_bias = ref_tensors
    if ref_hidden is not None:
        rest = (policy.weight, policy.bias) if ref_weight is None else (ref_weight, ref_bias)
        ref = Head(ref_hidden, *rest)
    _check_reference(ref, ref_weight, ref_bias)
    _check_head("", policy, policy.hidden.device)
    if ref is not None:
        _check_head("ref_", ref, policy.hidden.device)
        _check_pair(policy, ref)
    if policy.weight.shape[0] == 0 and not may_be_empty:
        raise ValueError("weight has no rows: a vocabulary needs at least one token.")
    return policy, ref


def check_transform(temperature: float, logit_scale: float, softcap: float | None) -> LogitTransform:
    """Return the transform of projections to logits; raise if a number is not above 0."""
    hint = "Sampling at temperature 0 is greedy and has no distribution: pass the sampling temperature, 1.0 by default."
    temperature = check_positive("temperature", temperature, hint)
    logit_scale = check_positive("logit_scale", logit_scale, "Pass 1.0 for logits that are not scaled.")
    if softcap is not None:
        softcap = check_positive("softcap", softcap, "Pass None for logits that are not capped.")
    return LogitTransform(logit_scale, softcap, temperature)


def autocast_dtype(hidden: Tensor) -> torch.dtype:
    """Return the requested dtype of the projections of `hidden`: autocast's under autocast, or its own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _check_reference(ref: Head | None, ref_weight: Tensor | None, ref_bias: Tensor | None) -> None:
    """Raise if parts of a reference were passed without the parts they need."""
    if ref is None and (ref_weight is not None or ref_bias is not None):
        raise ValueError(
            "ref_weight or ref_bias was passed without ref_hidden; pass the reference's hidden states too."
        )
    if ref_weight is None and ref_bias is not None:
        raise ValueError(
            "ref_bias was passed without ref_weight: without ref_weight the reference shares the policy's weight and"
            " bias. Pass both, or neither."
        )


def _check_pair(policy: Head, ref: Head) -> None:
    """Raise if two heads are not of the same tokens and the same vocabulary."""
    if ref.hidden.shape[0] != policy.hidden.shape[0]:
        raise ValueError(
            f"ref_hidden has {ref.hidden.shape[0]} rows but hidden has {policy.hidden.shape[0]}. Both must be of the"
            " same tokens: select the same positions from policy and reference."
        )
    if ref.weight.shape[0] != policy.weight.shape[0]:
        raise ValueError(
            f"vocabulary sizes differ: policy {policy.weight.shape[0]}, reference {ref.weight.shape[0]}. The Hellinger"
            " distance compares probabilities token by token: use a reference with the same tokenizer, and where only"
            " padding rows differ, cut both heads to the tokenizer's size."
        )


def _check_head(prefix: str, head: Head, device: torch.device) -> None:
    """Raise if the parts of a head do not fit together."""
    parts = (("hidden", head.hidden, "(N, H)", 2), ("weight", head.weight, "(V, H)", 2), ("bias", head.bias, "(V,)", 1))
    for name, tensor, shape, num_dims in parts:
        if tensor is None:
            continue
        if tensor.dim() != num_dims:
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
    """Raise if targets do not fit the rows of hidden, or an id lies outside of the vocabulary."""
    check_targets_shape(targets, policy)
    # Only where it is cheap: on an accelerator the comparison would wait for everything queued before it.
    if targets.device.type == "cpu" and targets.shape[0] > 0:
        lowest, highest = (int(x) for x in targets.aminmax())
        check_targets_range(lowest, highest, policy.weight.shape[0])


def check_targets_shape(targets: Tensor, policy: Head) -> None:
    """Raise if targets are of another dtype, shape or device than they must be."""
    num_rows = policy.hidden.shape[0]
    if targets.dtype != torch.int64 or targets.shape != (num_rows,):
        raise ValueError(
            f"targets must be int64 of shape ({num_rows},), one token id per row of hidden, got {targets.dtype} of"
            f" shape {tuple(targets.shape)}. Flatten it like hidden, and cast it with .long()."
        )
    if targets.device != policy.hidden.device:
        raise ValueError(f"targets is on {targets.device} but hidden is on {policy.hidden.device}; move it there.")


def check_targets_range(lowest: int, highest: int, vocab_size: int) -> None:
    """Raise if a token id lies outside of the vocabulary."""
    if lowest < 0 or highest >= vocab_size:
        worst = lowest if lowest < 0 else highest
        raise ValueError(
            f"targets contains {worst}, outside the vocabulary [0, {vocab_size}). Give padding and ignored"
            " positions any valid id (0, say) and mask their results."
        )
