"""The redistribution of completions whose tokens are split over the ranks of a process group."""

import torch
import torch.distributed as dist

from dgpo.core.checks import check_mask, check_positive
from dgpo.core.ranks import agree, check_process_group, device_of, gather_ranks
from dgpo.tensor_types import Bool, Float, Tensor

_FIELDS = ("the number of completions B", "tau", "the width of scores in bytes")


@torch.no_grad()
def sequence_parallel_weights(
    scores: Float[Tensor, "B T"],
    completion_mask: Bool[Tensor, "B T"],
    *,
    tau: float = 0.5,
    process_group: dist.ProcessGroup | None = None,
) -> Float[Tensor, "B T"]:
    """Return `redistribution_weights` of this rank's tokens, with the softmax over the tokens of all ranks.

    w_t = T exp(s_t / tau) / sum_j exp(s_j / tau), over the T trained tokens of the completion, wherever they are
    (arXiv:2605.03327; equation 5 of `docs/equations.md`). Ranks exchange three numbers a completion: the maximum of the
    scores they hold, the sum of exp((s - maximum) / tau), and how many tokens that is. Sums alone, relative to a fixed
    shift, would be two; but they underflow for small tau, and equal scores would no longer give exactly 1.

    Args:
        scores: s of this rank's part of each completion, any float dtype; T may differ between ranks and be 0, B may
            not, and completions stand in the same order everywhere. Masked slots are not read.
        completion_mask: True where a token is trained.
        tau: Temperature of the softmax, above 0; the same on every rank.
        process_group: The ranks that share these completions; None for all ranks.

    Returns:
        Weights of this rank's tokens, float32 (float64 from float64), no gradient: mean 1 over the trained tokens of a
        completion on all ranks together, 0 off the mask, exactly 1 where all scores of a completion are equal.

    Raises:
        ValueError: On every rank, if one of them was called with arguments that do not fit, or B or tau differ. Where
            looking at its arguments raises something else on a rank (None in place of a tensor), it raises that, and
            the others this.

    Example:
        >>> import torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)    # torchrun does this
        >>> mask = torch.tensor([[True, True, False]])
        >>> sequence_parallel_weights(torch.tensor([[0.0, 1.0986123, float("nan")]]), mask, tau=1.0)
        tensor([[0.5000, 1.5000, 0.0000]])
        >>> dist.destroy_process_group()
    """
    check_process_group(process_group, "use redistribution_weights for whole completions")
    device = device_of(scores, completion_mask)
    error: Exception | None = None
    fields = dict.fromkeys(_FIELDS, 0.0)
    try:
        check_mask("scores", scores, completion_mask)
        tau = check_positive("tau", tau, "The paper uses 0.5; larger values come closer to GRPO.")
        # The exponent's dtype must agree too: ranks exchange raw numbers of it.
        dtype = torch.promote_types(scores.dtype, torch.float32)
        fields = dict(zip(_FIELDS, (scores.shape[0], tau, dtype.itemsize), strict=True))
    except Exception as refusal:  # of any kind, a wrong type too: the other ranks wait for this one's answer
        error = refusal
    agree(fields, error, device=device, process_group=process_group)

    low = torch.finfo(dtype).min
    # One column more, so that a rank without tokens has a maximum too.
    masked = torch.nn.functional.pad(
        scores.to(dtype).masked_fill(~completion_mask, -torch.inf), (0, 1), value=-torch.inf
    )
    top = masked.amax(-1).clamp(min=low)
    local = torch.stack([top, ((masked - top[:, None]) / tau).exp().sum(-1), completion_mask.sum(-1).to(dtype)])
    tops, sums, counts = gather_ranks(local, process_group).unbind(1)
    whole_top = tops.amax(0)
    total = (sums * ((tops - whole_top) / tau).exp()).sum(0)
    share = ((masked[:, :-1] - whole_top[:, None]) / tau).exp()
    # n / sum first: equal scores give n / n = 1 exactly, as in `redistribution_weights`.
    return share * (counts.sum(0) / total.clamp(min=torch.finfo(dtype).tiny))[:, None]
