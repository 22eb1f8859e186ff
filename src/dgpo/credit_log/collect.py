"""From the tensors of an engine's scoring pass to the completions of a credit log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dgpo.credit_log.files import MAX_TOKENS, CompletionCredit
from dgpo.credit_log.token_text import token_texts

PER_TOKEN = ("weights", "hellinger_sq", "entropy", "scores", "logps", "ref_logps")
"""Names of the tensors that `collect_completion` wants."""

NUM_ALTERNATIVES, MAX_PLACES = 5, 64
"""How many of the likeliest tokens an engine keeps, and at how many places of a completion: those of largest score."""


def evenly_spread(count: int, total: int) -> list[int]:
    """Return which rows of a batch are logged.

    Args:
        count: How many at most.
        total: Rows of the batch.

    Returns:
        At most `count` of the rows, evenly spread, in order.

    Example:
        >>> evenly_spread(3, 9)
        [0, 3, 6]
    """
    count = min(count, total)
    return [index * total // count for index in range(count)]


def alternatives_at(
    positions: Sequence[int], tops: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[int, dict[str, list[tuple[int, float]]]]:
    """Return the likeliest tokens of a few places in the form that `collect_completion` takes.

    Args:
        positions: Places of a completion, n of them.
        tops: By model, `"policy"` and `"reference"`: what `dgpo.lm_head.top_tokens` gave for these places,
            probabilities and ids, both (n, k).

    Returns:
        By place and model, token ids with their probabilities.

    Example:
        >>> import torch
        >>> alternatives_at([7], {"policy": (torch.tensor([[0.75, 0.25]]), torch.tensor([[3, 1]]))})
        {7: {'policy': [(3, 0.75), (1, 0.25)]}}
    """
    found: dict[int, dict[str, list[tuple[int, float]]]] = {int(position): {} for position in positions}
    for who, (probabilities, ids) in tops.items():
        for place, row, ps in zip(found.values(), ids.tolist(), probabilities.tolist(), strict=True):
            place[who] = list(zip(row, ps, strict=True))
    return found


def collect_completion(
    tokenizer: Any,
    token_ids: Tensor,
    per_token: Mapping[str, Tensor],
    *,
    vocab_size: int,
    trained: Tensor | None = None,
    prompt_ids: Sequence[int] = (),
    prompt: str | None = None,
    advantage: float | None = None,
    rewards: Mapping[str, float] | None = None,
    reward: float | None = None,
    truncated: bool = False,
    alternatives: Mapping[int, dict[str, list[tuple[int, float]]]] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> CompletionCredit:
    """Return one completion for the credit log, as text and plain numbers.

    Args:
        tokenizer: A transformers tokenizer.
        token_ids: (T,) int64, without padding.
        per_token: The tensors of `PER_TOKEN`, each (T,) float: w, d, H in nats, s, log p and log q of each token.
        vocab_size: V, at least 2, which H is normalised by.
        trained: (T,) bool, False for tokens that get no credit; all True by default.
        prompt_ids: The prompt's ids, decoded where `prompt` is not given.
        prompt: The prompt as text.
        advantage: A of the completion.
        rewards: Each reward function's value.
        reward: Their weighted sum.
        truncated: Whether the completion was cut off at its greatest length.
        alternatives: For some tokens, by index: the likeliest token ids with their probabilities, of `"policy"` and
            `"reference"`.
        max_tokens: Tokens to keep; the effective share is that of all.

    Returns:
        The completion. Nothing in it refers to a tensor any more.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> import torch
        >>> class Letters:
        ...     def decode(self, ids, **options):
        ...         return "".join(chr(97 + index) for index in ids)
        >>> per_token = {name: torch.tensor([0.5, 1.5]) for name in PER_TOKEN}
        >>> found = collect_completion(Letters(), torch.tensor([7, 8]), per_token, vocab_size=26, prompt="say hi")
        >>> found.tokens, found.w, found.effective_share    # 2^2 / (0.25 + 2.25) / 2
        (['h', 'i'], [0.5, 1.5], 0.8)
    """
    ids = token_ids.tolist()
    columns = {name: per_token[name].detach().float().cpu().tolist() for name in PER_TOKEN}
    is_trained = [True] * len(ids) if trained is None else trained.tolist()
    for name, values in (*columns.items(), ("trained", is_trained)):
        if len(values) != len(ids):
            raise ValueError(f"{name} has {len(values)} entries for {len(ids)} tokens; pass the completion alone.")
    scale = math.log(vocab_size)
    weights = [w if counts else None for w, counts in zip(columns["weights"], is_trained, strict=True)]
    credited = [w for w in weights if w is not None]
    kept = slice(max_tokens)
    # A few words fill most of the alternatives; each is decoded once.
    words = {token for found in (alternatives or {}).values() for top in found.values() for token, _ in top}
    text_of = {token: token_texts(tokenizer, [token])[0] for token in words}
    return CompletionCredit(
        prompt=prompt if prompt is not None else "".join(token_texts(tokenizer, prompt_ids)),
        ids=ids[kept],
        tokens=token_texts(tokenizer, ids[kept]),
        w=weights[kept],
        d=columns["hellinger_sq"][kept],
        h=[min(1.0, max(0.0, x / scale)) for x in columns["entropy"][kept]],
        s=columns["scores"][kept],
        logp=columns["logps"][kept],
        log_ratio=[p - q for p, q in zip(columns["logps"][kept], columns["ref_logps"][kept], strict=True)],
        advantage=advantage,
        reward=reward,
        rewards=dict(rewards or {}),
        truncated=truncated,
        num_tokens=len(ids),
        effective_share=sum(credited) ** 2 / sum(w * w for w in credited) / len(credited) if any(credited) else None,
        alternatives={
            index: {who: [(text_of[token], p) for token, p in top] for who, top in found.items()}
            for index, found in (alternatives or {}).items()
            if index < max_tokens
        },
    )
