"""The most likely tokens at a few positions, for a log that people read: a tile of the logits at a time."""

import torch

from dgpo.lm_head.arguments import autocast_dtype, check_transform
from dgpo.lm_head.types import Head, LogitTransform, statistics_dtype
from dgpo.tensor_types import Float, Int, Tensor

_ROWS, _VOCAB = 512, 16384  # logits held at once: 32 MB in float32


@torch.no_grad()
def top_tokens(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    k: int = 5,
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Return the k most likely tokens of each row with their probabilities, in descending order.

    The logits are those of `lm_head_stats`, a tile at a time. Meant for the few hundred tokens of a log.

    Args:
        hidden: Final hidden states, (N, H), any float dtype.
        weight: The head, (V, H).
        k: Number of tokens; at most V are returned.
        bias: The head's bias, (V,).
        temperature: Sampling temperature, > 0.
        logit_scale: Factor of the projections, > 0.
        softcap: Final logit softcapping, > 0; None for none.

    Returns:
        Probabilities, float32 (float64 where the projection runs in float64), and token ids, int64. No gradient.

    Raises:
        ValueError: If temperature, logit_scale or softcap is not above 0.

    Example:
        >>> import torch
        >>> head = torch.tensor([[0.2], [0.7], [0.1]]).log()
        >>> probabilities, ids = top_tokens(torch.tensor([[1.0]]), head, 2)
        >>> ids.tolist(), [round(p, 4) for p in probabilities[0].tolist()]
        ([[1, 0]], [0.7, 0.2])
    """
    transform = check_transform(temperature, logit_scale, softcap)
    head = Head(hidden.to(autocast_dtype(hidden)), weight, bias)
    with torch.autocast(hidden.device.type, enabled=False):
        tops = [_top(head._replace(hidden=rows), min(k, len(weight)), transform) for rows in head.hidden.split(_ROWS)]
    probabilities, ids = zip(*tops, strict=True)
    return torch.cat(probabilities), torch.cat(ids)


def _top(head: Head, k: int, transform: LogitTransform) -> tuple[Tensor, Tensor]:
    """Return the top of all slices of the vocabulary, merged; the log-sums of the slices give the normaliser."""
    tops, positions, sums = [], [], []
    dtype = statistics_dtype(head.hidden.dtype)
    for start in range(0, len(head.weight), _VOCAB):
        part = slice(start, start + _VOCAB)
        projection = (head.hidden @ head.weight[part].to(head.hidden.dtype).T).to(dtype)
        if head.bias is not None:
            projection = projection + head.bias[part].to(dtype)
        logits = transform(projection)
        values, ids = logits.topk(min(k, logits.shape[1]), dim=-1)
        tops.append(values)
        positions.append(ids + start)
        sums.append(logits.logsumexp(-1))
    values, order = torch.cat(tops, -1).topk(k, dim=-1)
    normaliser = torch.stack(sums, -1).logsumexp(-1, keepdim=True)
    return (values - normaliser).exp(), torch.cat(positions, -1).gather(-1, order)
