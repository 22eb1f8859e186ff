"""What the credit of a run comes to: histogram of the weights, effective share, the most and least credited tokens."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dgpo.credit_log.files import CompletionCredit, LoggedStep

NUM_BINS, NUM_TOKENS = 40, 12


def summarize_credit(steps: Sequence[LoggedStep], *, reach: float | None = None) -> dict[str, Any]:
    """Return the figures of a credit log, as plain values.

    Args:
        steps: The log.
        reach: Half the width of the histogram in log w, for logs that are compared; by default what holds all weights.

    Returns:
        `tokens`, `completions`: how many were logged (tokens that are trained); `low`, `high`: of the weights; `share`:
        mean effective share over the completions, `None` without any; `shares`: the same step by step; `edges` and
        `counts`: a histogram over log w, the counts a list for each step; `most`, `least`: token texts by mean weight.

    Example:
        >>> one = [0.5, 1.5]
        >>> completion = CompletionCredit("", [1, 2], ["a", "b"], one, one, one, one, one, one)
        >>> found = summarize_credit([LoggedStep(1, {}, [completion])])
        >>> found["low"], found["high"], found["share"]
        (0.5, 1.5, 0.8)
    """
    completions = [completion for step in steps for completion in step.completions]
    weights = _weights(completions)
    edges = _edges(weight_reach(steps) if reach is None else reach)
    by_text = _by_text(completions)
    ordered = sorted(by_text, key=lambda row: row["w"])
    half = min(NUM_TOKENS, len(ordered) // 2)
    return {
        "tokens": len(weights),
        "completions": len(completions),
        "low": min(weights, default=None),
        "high": max(weights, default=None),
        "share": _mean(_shares(completions)),
        "shares": [(step.step, _mean(_shares(step.completions))) for step in steps],
        "edges": edges,
        "counts": [_counts(_weights(step.completions), edges) for step in steps],
        "most": ordered[::-1][:half],
        "least": ordered[:half],
    }


def _weights(completions: Iterable[CompletionCredit]) -> list[float]:
    return [w for completion in completions for w in completion.w if w is not None]


def _shares(completions: Iterable[CompletionCredit]) -> list[float]:
    return [completion.effective_share for completion in completions if completion.effective_share is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def weight_reach(steps: Iterable[LoggedStep]) -> float:
    """Return the largest |log w| of a log, within the bounds of a readable histogram."""
    weights = _weights(completion for step in steps for completion in step.completions)
    reach = max((abs(math.log(w)) for w in weights if w > 0), default=0.0)
    return min(max(reach, math.log(1.01)) * 1.0001, math.log(1e4))


def _edges(reach: float) -> list[float]:
    """Edges of bins of equal width in log w, symmetric about 1, so that 1 is the middle of the middle bin."""
    count = NUM_BINS + 1
    return [math.exp(-reach + 2 * reach * index / count) for index in range(count + 1)]


def _counts(weights: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    reach = math.log(edges[-1])
    for w in weights:
        place = (math.log(w) + reach) / (2 * reach) if w > 0 else 0.0
        counts[min(len(counts) - 1, max(0, int(place * len(counts))))] += 1
    return counts


def _by_text(completions: Sequence[CompletionCredit]) -> list[dict[str, Any]]:
    """Mean figures of each token text that occurs often enough to have a mean worth reading."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0, -math.inf])
    for completion in completions:
        for text, w, d, h in zip(completion.tokens, completion.w, completion.d, completion.h, strict=True):
            if w is None or not text:
                continue
            found = sums[text]
            found[0] += 1
            found[1] += w
            found[2] += d or 0.0
            found[3] += h or 0.0
            found[4] = max(found[4], w)
    total = sum(found[0] for found in sums.values())
    rare = 3 if total >= 200 else 1
    return [
        {"text": text, "count": int(n), "w": w / n, "d": d / n, "h": h / n, "max": top}
        for text, (n, w, d, h, top) in sums.items()
        if n >= rare
    ]
