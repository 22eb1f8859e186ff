"""From the tensors of an engine's scoring pass to the completions of a credit log."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgpo.core import HINDSIGHT_STATS
from dgpo.credit_log.record import (
    EOS,
    LENGTH,
    MAX_TOKENS,
    Column,
    CompletionCredit,
    effective_share,
    ends,
    head_and_tail,
)
from dgpo.credit_log.token_text import token_texts

if TYPE_CHECKING:
    from torch import Tensor

PER_TOKEN = ("weights", "hellinger_sq", "entropy", "scores", "logps", "ref_logps")
"""Names of the tensors that `collect_completion` takes; without a reference, `weights`, `entropy` and `logps`."""

TOKEN_ADVANTAGES = "token_advantages"
"""Name of the tensor that a signed rule gives in place of `weights`."""

NUM_ALTERNATIVES, MAX_PLACES = 5, 64
"""How many of the likeliest tokens are logged, and at how many places of a completion: those of largest score."""


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


def rows_of_whole_groups(group: Sequence[int], advantages: Sequence[float], count: int) -> list[int]:
    """Return which rows of a batch are logged so that the completions of a prompt stay together.

    Args:
        group: Which prompt each row belongs to; rows of a prompt need not lie side by side.
        advantages: A of each row; prompts whose completions all have 0 come last.
        count: How many rows at most.

    Returns:
        Rows of as many whole groups as there is room for, at least of one: of a larger one, `count` rows.

    Example:
        >>> rows_of_whole_groups([0, 1, 2, 0, 1, 2], [0, 0, 1, 0, 0, -1], count=4)
        [2, 5, 0, 3]
    """
    members: dict[int, list[int]] = {}
    for row, prompt in enumerate(group):
        members.setdefault(int(prompt), []).append(row)
    groups = sorted(members.values(), key=lambda rows: not any(advantages[row] for row in rows))
    chosen: list[int] = []
    for rows in groups:
        if not chosen:
            chosen = [rows[index] for index in evenly_spread(count, len(rows))]
        elif len(chosen) + len(rows) <= count:
            chosen += rows
    return chosen


def alternatives_at(
    positions: Sequence[int], tops: "Mapping[str, tuple[Tensor, Tensor]]"
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
    places: dict[int, dict[str, list[tuple[int, float]]]] = {int(position): {} for position in positions}
    for who, (probabilities, ids) in tops.items():
        for place, row, ps in zip(places.values(), ids.tolist(), probabilities.tolist(), strict=True):
            place[who] = list(zip(row, ps, strict=True))
    return places


def reason_it_ended(ids: Sequence[int], eos_ids: Collection[int | None]) -> str:
    """Return why a completion ended.

    Args:
        ids: Its token ids, without padding.
        eos_ids: Every token that ends a completion: `generation_config.eos_token_id` may name several.

    Returns:
        `"eos"`, or `"length"` if it does not end with one of them.

    Example:
        >>> reason_it_ended([5, 7, 2], eos_ids=(1, 2)), reason_it_ended([5, 7], eos_ids=(1, 2))
        ('eos', 'length')
    """
    return EOS if len(ids) and int(ids[-1]) in eos_ids else LENGTH


def collect_completion(
    tokenizer: Any,
    token_ids: "Tensor",
    per_token: "Mapping[str, Tensor]",
    *,
    vocab_size: int,
    trained: "Tensor | None" = None,
    prompt_ids: Sequence[int] = (),
    prompt: str | None = None,
    advantage: float | None = None,
    rewards: Mapping[str, float] | None = None,
    reward: float | None = None,
    answer: str | None = None,
    hint: str | None = None,
    control: str | None = None,
    hint_agreement: float | None = None,
    group: int | str | None = None,
    ended: str | None = None,
    truncated: bool = False,
    alternatives: Mapping[int, dict[str, list[tuple[int, float]]]] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> CompletionCredit:
    """Return one completion for the credit log, as text and plain numbers.

    Args:
        tokenizer: A transformers tokenizer.
        token_ids: (T,) int64, without padding.
        per_token: (T,) float each, by the names of `PER_TOKEN`: w, d, H in nats, s, log p and log q of each token.
            `token_advantages` of a signed rule stand in place of `weights`. What is absent is logged as `None`; what
            has another name is logged as a column of that name, those of a hint only where there is one.
        vocab_size: V, at least 2, which H is normalised by.
        trained: (T,) bool, False for tokens that get no credit; all True by default.
        prompt_ids: The prompt's ids, decoded where `prompt` is not given.
        prompt: The prompt as text.
        advantage: A of the completion.
        rewards: Each reward function's value.
        reward: Their weighted sum.
        answer: The correct answer, as text.
        hint: What the reference was shown, `""` for a completion without a hint; None where the rule reads none.
        control: What the hint was compared with; None for the plain prompt.
        hint_agreement: How the rewards of the prompt's completions agree with the hint; None or nan: it is not known.
        group: Which prompt of the step the completion belongs to.
        ended: Why it ended, from `reason_it_ended`.
        truncated: Without `ended`: whether the completion was cut off at its greatest length.
        alternatives: For some tokens, by index: the likeliest token ids with their probabilities, of `"policy"` and
            `"reference"`.
        max_tokens: Tokens that are kept, half of them from the end; the effective share is that of all.

    Returns:
        The completion. Nothing in it refers to a tensor any more.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> import torch
        >>> class Letters:
        ...     def decode(self, ids, **options):
        ...         return "".join(chr(97 + index) for index in ids)
        >>> per_token = {"weights": torch.tensor([0.5, 1.5]), "entropy": torch.tensor([0.0, 0.0])}
        >>> hi = collect_completion(Letters(), torch.tensor([7, 8]), per_token, vocab_size=26, prompt="say hi")
        >>> hi.tokens, hi.w, hi.effective_share    # 2^2 / (0.25 + 2.25) / 2
        (['h', 'i'], [0.5, 1.5], 0.8)
        >>> hi.d
        [None, None]
    """
    ids = token_ids.tolist()
    is_trained = [True] * len(ids) if trained is None else trained.tolist()
    values: dict[str, list[float]] = {name: x.detach().float().cpu().tolist() for name, x in per_token.items()}
    for name, column in (*values.items(), ("trained", is_trained)):
        if len(column) != len(ids):
            raise ValueError(f"{name} has {len(column)} entries for {len(ids)} tokens; pass the completion alone.")
    credit = {
        name: [x if counts else None for x, counts in zip(values.pop(name), is_trained, strict=True)]
        for name in ("weights", TOKEN_ADVANTAGES)
        if name in values
    }
    head, tail = head_and_tail(len(ids), len(ids), max_tokens) if len(ids) > max_tokens else (len(ids), 0)

    def logged(column: Sequence[float | None] | None) -> Column:
        return [] if column is None else ends(column, head, tail)

    entropy, logps, ref_logps = values.pop("entropy", None), values.pop("logps", None), values.pop("ref_logps", None)
    scale = math.log(vocab_size)
    shares = None if entropy is None else [min(1.0, max(0.0, x / scale)) for x in entropy]
    log_ratio = None
    if logps is not None and ref_logps is not None:
        log_ratio = [p - q for p, q in zip(logps, ref_logps, strict=True)]
    first_of_tail = len(ids) - tail
    places = {
        index if index < head else index - first_of_tail + head: place
        for index, place in (alternatives or {}).items()
        if index < head or index >= first_of_tail
    }
    # A few tokens fill most of the alternatives; each is decoded once.
    text_of = {
        token: token_texts(tokenizer, [token])[0]
        for token in {token for place in places.values() for top in place.values() for token, _ in top}
    }
    left_out = HINDSIGHT_STATS if hint == "" else ()  # the rule reads 0 there, and nothing was measured
    sizes = [abs(x) for x in next(iter(credit.values()), []) if x is not None]
    return CompletionCredit(
        prompt=prompt if prompt is not None else "".join(token_texts(tokenizer, prompt_ids)),
        ids=ends(ids, head, tail),
        tokens=token_texts(tokenizer, ids[:head]) + token_texts(tokenizer, ids[first_of_tail:] if tail else []),
        w=logged(credit.get("weights")),
        a=logged(credit.get(TOKEN_ADVANTAGES)),
        d=logged(values.pop("hellinger_sq", None)),
        h=logged(shares),
        s=logged(values.pop("scores", None)),
        logp=logged(logps),
        log_ratio=logged(log_ratio),
        columns={name: logged(column) for name, column in values.items() if name not in left_out},
        advantage=advantage,
        reward=reward,
        rewards=dict(rewards or {}),
        answer=answer,
        hint=hint,
        control=control,
        hint_agreement=None if hint_agreement is None or math.isnan(hint_agreement) else hint_agreement,
        group=group,
        ended=ended or (LENGTH if truncated else None),
        num_tokens=len(ids),
        head=head,
        effective_share=effective_share(sizes),
        alternatives={
            index: {who: [(text_of[token], p) for token, p in top] for who, top in place.items()}
            for index, place in places.items()
        },
    )
