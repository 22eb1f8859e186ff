"""What a hinted reference thinks of a micro-batch of verl's: the engine's side of a hint pass.

A hint pass runs the reference on the sequences with the hint and on those that they are compared with, and sends both
hidden states through one pass over its head, at the tokens of the responses alone: the two have prompts of two lengths.
"""

from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu

from dgpo.core import HINDSIGHT_STATS

HINT_PASS = "dgpo_hindsight"
"""Key of the flag in a batch: this forward-only pass compares the reference after a hint with itself without."""

HINTED_IDS = "dgpo_hinted_ids"
"""Field of a batch: each sequence with the hint in its prompt."""

COMPARED_IDS = "dgpo_compared_ids"
"""Field of a batch: what each of those is compared with, the sequence as it was sampled, or with another hint."""

HINT_FIELDS = ("input_ids", "responses", "loss_mask", HINTED_IDS, COMPARED_IDS)
"""Fields of a batch that a hint pass reads; verl's loop over micro-batches counts the tokens of `loss_mask`."""


def sequences_of(data: TensorDict, name: str) -> TensorDict:
    """Return a batch with the sequences of one of its fields as `input_ids`, in a copy that shares the tensors."""
    copied, sequences = data.copy(), data[name]
    positions = [torch.arange(int(length)) for length in sequences.offsets().diff()]
    positions_nested = torch.nested.nested_tensor_from_jagged(
        torch.cat(positions).to(sequences.device), sequences.offsets()
    )
    copied["input_ids"], copied["position_ids"] = sequences, positions_nested
    return copied


def response_positions(inputs: dict[str, Any], sequences: Tensor, responses: Tensor) -> Tensor:
    """Return where a model's inputs stand one place before a token of a response.

    Args:
        inputs: From verl's `prepare_model_inputs`: packed, or padded with a mask.
        sequences: Nested, (B, length of each) int64, what the inputs were made of.
        responses: Nested, (B, length of each), their last tokens.

    Returns:
        (B, L) bool, of the shape of the inputs; its places in order are the tokens of the responses in theirs.
    """
    ends, starts = (x.offsets().tolist() for x in (sequences, responses))  # type: ignore[attr-defined]
    chosen = torch.zeros(int(ends[-1]), dtype=torch.bool, device=sequences.device)
    for end, start, stop in zip(ends[1:], starts, starts[1:], strict=False):
        chosen[end - 1 - (stop - start) : end - 1] = True
    positions = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    if inputs["attention_mask"] is None:
        positions[0, : len(chosen)] = chosen
    else:
        positions[inputs["attention_mask"].bool()] = chosen
    return positions


def hindsight_output(columns: Tensor, responses: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return what verl's `forward_step` returns, of a hint pass.

    Args:
        columns: (n, 4) from the head, the hinted reference in the policy's place.
        responses: Nested, (B, length of each), n tokens in all.

    Returns:
        A loss that nothing reads, and the statistics by name, nested like the responses.
    """
    log_probs, _, distance, ref_log_probs = columns.unbind(-1)
    values = dict(zip(HINDSIGHT_STATS, (distance, log_probs - ref_log_probs), strict=True))
    offsets = responses.offsets()  # type: ignore[attr-defined]
    named = {name: torch.nested.nested_tensor_from_jagged(value, offsets) for name, value in values.items()}
    return columns.new_tensor(1.0), {"model_output": named, "loss": 1.0, "metrics": {}}


def asks_for_hints(data: TensorDict) -> bool:
    """Return whether a batch is that of a hint pass."""
    return bool(tu.get_non_tensor_data(data, HINT_PASS, default=False))
