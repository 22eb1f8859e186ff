"""From a batch of verl's to `TokenStats`: the one place where verl's names become those of the core."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from verl.workers.utils.padding import response_from_nested

from dgpo.core.hindsight import hint_pairs, hint_totals
from dgpo.core.token_stats import HINDSIGHT_STATS, TokenStats
from dgpo.errors import TrainingError

REFERENCE_FIELDS = ("hellinger_sq", "ref_log_probs")
"""What a credit pass stores beside verl's fields, over whole sequences."""

FIELDS = ("response_mask", "advantages", "rm_scores", "old_log_probs", "entropy")
"""What verl stores of each response."""

_NAMES = {
    "entropy": "entropy",
    "logps": "old_log_probs",
    "hellinger_sq": "hellinger_sq",
    "ref_logps": "ref_log_probs",
}
"""Per-token fields of `TokenStats` and verl's names for them."""


def token_stats(
    data: Mapping[str, Tensor], keys: Sequence[str], *, vocab_size: int, is_padding: Sequence[bool] | None = None
) -> TokenStats:
    """Return the statistics of a batch for a credit rule.

    `old_logps` are `logps`: the credit is given before the first update, by the policy that sampled.

    Args:
        data: Nested tensors of B rows by verl's names: `FIELDS`, `REFERENCE_FIELDS` where a reference was scored,
            and `HINDSIGHT_STATS` where it was shown hints.
        keys: verl's keys of the rows, `{uid}_{session}_{index}`; the completions of a prompt have one uid.
        vocab_size: V.
        is_padding: Which rows verl has added to fill the batch up; their reward is nan. None by default.

    Returns:
        Padded to the longest response; nothing of a row of padding is trained.
    """
    nested_mask = data["response_mask"]
    mask = _padded(nested_mask).bool()
    per_token = {}
    for name, field in _NAMES.items():
        if field in REFERENCE_FIELDS:
            if field not in data:
                continue
            per_token[name] = _padded(response_from_nested(data[field], nested_mask))
        else:
            per_token[name] = _padded(data[field])
    per_token |= {name: _padded(data[name]) for name in HINDSIGHT_STATS if name in data}
    # verl's outcome estimators write one value to all trained tokens of a completion; it is 0 where none is trained.
    first = mask.int().argmax(-1, keepdim=True)
    advantages = torch.where(mask.any(-1), _padded(data["advantages"]).gather(-1, first)[:, 0], 0.0)
    rewards = _padded(data["rm_scores"]).sum(-1)
    if is_padding is not None:
        rewards = rewards.masked_fill(torch.tensor(is_padding, dtype=torch.bool), torch.nan)
    group, agreement = groups_of(keys), None
    if per_token.keys() >= set(HINDSIGHT_STATS):
        totals = hint_totals(per_token["hindsight_log_ratio"], per_token["hindsight_hellinger_sq"], mask)
        agreement = hint_pairs(totals, rewards, group).agreement
    return TokenStats(
        completion_mask=mask,
        advantages=advantages,
        old_logps=per_token["logps"],
        vocab_size=vocab_size,
        rewards=rewards,
        group=group,
        hint_agreement=agreement,
        **per_token,
    )


def groups_of(keys: Sequence[str]) -> Tensor:
    """Return which prompt each row belongs to, (B,) int64, by the uid in its key."""
    uids = [key.rsplit("_", 2)[0] for key in keys]
    numbers = {uid: number for number, uid in enumerate(dict.fromkeys(uids))}
    return torch.tensor([numbers[uid] for uid in uids], dtype=torch.int64)


def check_finite(stats: TokenStats) -> None:
    """Stop the run before an update by statistics that are not finite.

    Args:
        stats: Of a batch.

    Raises:
        TrainingError: If a statistic of a trained token is nan or infinite; it names verl's field.
    """
    for name, field in (_NAMES | {name: name for name in HINDSIGHT_STATS}).items():
        values = getattr(stats, name)
        if values is None:
            continue
        num_bad = int((~torch.isfinite(values[stats.completion_mask])).sum())
        if num_bad:
            raise TrainingError(
                f"{field} of {num_bad} trained tokens is not finite; no weight could be trusted, so the run stops"
                " before the update. Usual causes: a learning rate that is too high, fp16 overflow (use bf16), or a"
                " model whose weights were nan from the start."
            )


def _padded(nested: Tensor) -> Tensor:
    """Return (B, T) float32 with zeros where a row is shorter."""
    padded: Tensor = torch.nested.to_padded_tensor(nested.float(), 0.0)
    return padded
