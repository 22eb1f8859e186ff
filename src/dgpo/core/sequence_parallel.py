"""The redistribution of completions whose tokens are split over the ranks of a process group.

Ranks exchange three numbers a completion: the maximum of their scores, the sum of exp((s - maximum) / tau), and the
number of tokens. Sums relative to a fixed shift would be two, but they underflow for small tau, and equal scores would
no longer give exactly 1.
"""

import torch
import torch.distributed as dist

from dgpo.core.checks import check_mask
from dgpo.core.numbers import check_positive
from dgpo.core.ranks import check_process_group, compare_calls, device_of, gather_ranks
from dgpo.tensor_types import Bool, Float, Tensor

_FIELDS = ("the number of completions B", "tau", "the width of scores in bytes")


def finite_scores(scores: Tensor, completion_mask: Tensor) -> Tensor:
    """Return scores as the softmax takes them: -inf off the mask, and infinite ones as the largest finite numbers.

    So tokens of score inf share what there is, and a completion of -inf alone is one of equal scores. nan stays nan.
    """
    dtype = torch.promote_types(scores.dtype, torch.float32)
    # nan off the mask is filled below.
    return scores.to(dtype).nan_to_num(nan=torch.nan).masked_fill(~completion_mask, -torch.inf)


def temperature_in_range(tau: float, dtype: torch.dtype) -> float:
    """Return tau within what the dtype holds: 0 or inf in its place would give 0 / 0 and inf / inf."""
    range_of = torch.finfo(dtype)
    return min(max(tau, range_of.tiny), range_of.max)


def sequence_parallel_weights(
    scores: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    tau: float,
    process_group: dist.ProcessGroup,
) -> Float[Tensor, "B T"]:
    """Return `redistribution_weights` of this rank's tokens, with the softmax over the tokens of all ranks.

    Args:
        scores: s of this rank's part of each completion, any float dtype.
        completion_mask: True where a token is trained.
        tau: Temperature of the softmax, above 0.
        process_group: The ranks that share these completions.

    Returns:
        Weights of this rank's tokens, float32 (float64 from float64).
    """
    check_process_group(process_group, "leave process_group out for whole completions")
    device = device_of(scores, completion_mask)
    error: Exception | None = None
    fields = dict.fromkeys(_FIELDS, 0.0)
    try:
        check_mask("scores", scores, completion_mask)
        tau = check_positive("tau", tau, "The paper uses 0.5; larger values come closer to GRPO.")
        # The exponent's dtype must agree too: ranks exchange raw numbers of it.
        dtype = torch.promote_types(scores.dtype, torch.float32)
        fields = dict(zip(_FIELDS, (scores.shape[0], tau, dtype.itemsize), strict=True))
    except Exception as own_error:  # of any kind, a wrong type too: the other ranks wait for this one
        error = own_error
    compare_calls(fields, error, device=device, process_group=process_group)

    low = torch.finfo(dtype).min
    tau = temperature_in_range(tau, dtype)
    # One column more, so that a rank without tokens has a maximum too.
    masked = torch.nn.functional.pad(finite_scores(scores, completion_mask), (0, 1), value=-torch.inf)
    top = masked.amax(-1).clamp(min=low)
    local = torch.stack([top, ((masked - top[:, None]) / tau).exp().sum(-1), completion_mask.sum(-1).to(dtype)])
    tops, sums, counts = gather_ranks(local, process_group).unbind(1)
    whole_top = tops.amax(0)
    total = (sums * ((tops - whole_top) / tau).exp()).sum(0)
    share = ((masked[:, :-1] - whole_top[:, None]) / tau).exp()
    # n / sum first: equal scores give n / n = 1 exactly, as in `redistribution_weights`.
    weights = share * (counts.sum(0) / total.clamp(min=torch.finfo(dtype).tiny))[:, None]
    return weights.masked_fill_(~completion_mask, 0.0)  # where a score of the completion is nan
