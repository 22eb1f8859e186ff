"""Figures of a credit log: histogram of the weights, effective share, the most and least credited tokens."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from dgpo.credit_log import CompletionCredit, LoggedStep

NUM_BINS, NUM_TOKENS = 40, 12


def summarize_credit(steps: Sequence[LoggedStep], *, edges: Sequence[float] | None = None) -> dict[str, Any]:
    """Return the figures of a credit log, as plain values.

    Args:
        steps: The log.
        edges: Of the histogram, from `histogram_edges`, for logs that are compared; by default those of this log.

    Returns:
        `tokens`, `completions`: how many were logged (tokens that are trained); `signed`: whether a signed rule gave
        token advantages, of which all figures are then, in place of weights; `low`, `high`: of the weights; `share`:
        mean effective share over the completions, `None` without any; `shares`: the same step by step; `edges` and
        `counts`: a histogram, the counts a list for each step; `most`, `least`: token texts by mean weight.

    Example:
        >>> one = [0.5, 1.5]
        >>> completion = CompletionCredit("", [1, 2], ["a", "b"], one, one, one, one, one, one)
        >>> summary = summarize_credit([LoggedStep(1, {}, [completion])])
        >>> summary["low"], summary["high"], summary["share"]
        (0.5, 1.5, 0.8)
    """
    completions = [completion for step in steps for completion in step.completions]
    credit = _credit(completions)
    edges = histogram_edges([steps]) if edges is None else edges
    by_text = sorted(_by_text(completions), key=lambda row: row["w"])
    half = min(NUM_TOKENS, len(by_text) // 2)
    return {
        "tokens": len(credit),
        "completions": len(completions),
        "signed": _is_signed(steps),
        "low": min(credit, default=None),
        "high": max(credit, default=None),
        "share": _mean(_shares(completions)),
        "shares": [(step.step, _mean(_shares(step.completions))) for step in steps],
        "edges": list(edges),
        "counts": [_counts(_credit(step.completions), edges) for step in steps],
        "most": by_text[::-1][:half],
        "least": by_text[:half],
    }


def histogram_edges(logs: Iterable[Sequence[LoggedStep]]) -> list[float]:
    """Return the edges of one histogram for several logs.

    Weights have bins of equal width in log w, or in w where one of them is 0; token advantages in A w. The middle of
    one bin is 1 for weights and 0 for token advantages, and no bin lies beyond the smallest or the largest value.

    Args:
        logs: The logs.

    Returns:
        One edge more than there are bins; at least one bin.

    Example:
        >>> log = [LoggedStep(1, {}, [CompletionCredit("", [1, 2], ["a", "b"], [1.0, 4.0])])]
        >>> edges = histogram_edges([log])
        >>> round(edges[0], 2), round(edges[-1], 2)
        (0.97, 4.0)
    """
    logs = list(logs)
    signed = any(map(_is_signed, logs))
    values = [x for steps in logs for x in _credit(completion for step in steps for completion in step.completions)]
    is_logarithmic = not signed and all(x > 0 for x in values)
    middle = 0.0 if signed else 1.0
    far = [math.log(x) if is_logarithmic else x - middle for x in values]
    low, high = min([0.0, *far]), max([0.0, *far])
    reach = max(high, -low, 1e-9 if signed else math.log(1.01)) * 1.0001
    width = 2 * reach / (NUM_BINS + 1)
    bins = [-reach + width * index for index in range(NUM_BINS + 1)]
    bins = [left for left in bins if left <= high and left + width > low]
    edges = [
        max(bins[0], low) if low < 0 else bins[0],
        *bins[1:],
        min(bins[-1] + width, high) if high > 0 else bins[-1] + width,
    ]
    return [math.exp(edge) if is_logarithmic else middle + edge for edge in edges]


def _is_signed(steps: Iterable[LoggedStep]) -> bool:
    return any(completion.is_signed for step in steps for completion in step.completions)


def _credit(completions: Iterable[CompletionCredit]) -> list[float]:
    return [x for completion in completions for x in completion.credit if x is not None]


def _shares(completions: Iterable[CompletionCredit]) -> list[float]:
    return [completion.effective_share for completion in completions if completion.effective_share is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(len(counts) - 1, max(0, bisect_right(edges, value) - 1))] += 1
    return counts


def _by_text(completions: Sequence[CompletionCredit]) -> list[dict[str, Any]]:
    """Mean figures of each token text that occurs often enough to have a mean worth reading."""
    columns: dict[str, list[tuple[float, float | None, float | None]]] = defaultdict(list)
    for completion in completions:
        for text, credit, d, h in zip(completion.tokens, completion.credit, completion.d, completion.h, strict=True):
            if credit is not None and text:
                columns[text].append((credit, d, h))
    rare = 3 if sum(map(len, columns.values())) >= 200 else 1
    rows = []
    for text, values in columns.items():
        if len(values) < rare:
            continue
        means = [_mean([x for x in column if x is not None]) for column in zip(*values, strict=True)]
        top = max(credit for credit, _, _ in values)
        rows.append({"text": text, "count": len(values), **dict(zip("wdh", means, strict=True)), "max": top})
    return rows
