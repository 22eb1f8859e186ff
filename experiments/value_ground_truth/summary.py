"""How well each signal says where value changes and which way: AUROC over segments, with intervals over questions."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.credit.measure import auroc
from experiments.value_ground_truth.measure import GOLD, LOG_GOLD, TAUGHT

THRESHOLDS = (0.25, 0.375)
"""Changes of the value that count as large."""
_RESAMPLES = 1000
_BINS = 5
_SIGNED = ("log-ratio",)
Numbers = NDArray[np.float64]


class Segment(NamedTuple):
    """The tokens between two prefixes.

    Attributes:
        question: Which.
        position: Of its first token, as a share of the completion.
        change: Of the value.
        sizes: Signal to the largest size of it in the segment.
        signs: Signal to its sum over the segment, of those that have a sign.
    """

    question: int
    position: float
    change: float
    sizes: Mapping[str, float]
    signs: Mapping[str, float]


def segments(rows: Sequence[Mapping[str, Any]], continuations: int) -> list[Segment]:
    """Return the segments of all completions.

    Args:
        rows: What `measure.measured` gave.
        continuations: Of each prefix.

    Returns:
        Segments; the value at the end of a completion is its reward.
    """
    found = []
    for row in rows:
        for one in row["completions"]:
            values = [count / continuations for count in one["right"]] + [one["reward"]]
            edges = [*one["cuts"], one["tokens"]]
            for index, (start, end) in enumerate(itertools.pairwise(edges)):
                sizes, signs = _of_segment(one["signals"], index, start, end)
                change = values[index + 1] - values[index]
                found.append(Segment(row["question"], start / one["tokens"], change, sizes, signs))
    return found


def _of_segment(
    signals: Mapping[str, Sequence[float]], index: int, start: int, end: int
) -> tuple[dict[str, float], dict[str, float]]:
    sizes, signs = {}, {}
    for name, values in signals.items():
        if name in (GOLD, LOG_GOLD, TAUGHT):
            signs[name] = values[index + 1] - values[index]
            sizes[name] = abs(signs[name])
            continue
        inside = values[start:end]
        sizes[name] = max(abs(value) for value in inside)
        if name in _SIGNED or name.endswith((": i", ": i d")):
            signs[name] = sum(inside)
        elif name == "surprisal":
            signs[name] = -max(inside)
    return sizes, signs


def with_interval(
    question: NDArray[np.int64], figure: Callable[[NDArray[np.int64]], float], seed: int = 0
) -> list[float | None]:
    """Return a figure and its 95 % interval, from drawing whole questions again with replacement.

    Args:
        question: Of each item.
        figure: Indices of items to a figure.
        seed: Of the draws.

    Returns:
        Value, low, high; bounds are None where fewer than half of the draws have the figure.
    """
    rows = {one: np.flatnonzero(question == one) for one in np.unique(question)}
    names, random = list(rows), np.random.default_rng(seed)
    value = figure(np.arange(len(question)))
    drawn = []
    for _ in range(_RESAMPLES if names else 0):
        chosen = random.integers(len(names), size=len(names))
        drawn.append(figure(np.concatenate([rows[names[index]] for index in chosen])))
    known = [one for one in drawn if np.isfinite(one)]
    if len(known) < max(_RESAMPLES / 2, 1):
        return [_finite(value), None, None]
    low, high = np.quantile(known, [0.025, 0.975])
    return [_finite(value), float(low), float(high)]


def _auroc(scores: Numbers, labels: NDArray[np.bool_]) -> float:
    return auroc(torch.from_numpy(scores), torch.from_numpy(labels))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def summarize(rows: Sequence[Mapping[str, Any]], continuations: int) -> dict[str, Any]:
    """Return the figures of a table.

    Args:
        rows: What `measure.measured` gave, one per question.
        continuations: Of each prefix.

    Returns:
        As JSON would hold it: `accuracy`, `completions`, `tokens` (mean), `segments`, `large` (per threshold: counts,
        `where` and `sign`, per signal [AUROC, low, high]), `whole` (AUROC of a signal's sum over a completion for
        being right), `halves` (AUROC of the sign in the first and the second half of the completions), `calibration`
        (per signal the mean change of the value in five equal parts of the segments, by its sum).
    """
    completions = [one for row in rows for one in row["completions"]]
    every = segments(rows, continuations)
    changes = np.array([one.change for one in every])
    return {
        "accuracy": float(np.mean([one["reward"] for one in completions])),
        "completions": len(completions),
        "tokens": float(np.mean([one["tokens"] for one in completions])),
        "segments": len(every),
        "large": {str(threshold): _at(every, changes, threshold) for threshold in THRESHOLDS},
        "whole": _whole(rows),
        "halves": {name: _halves(every, name) for name in _names(every, "signs")},
        "calibration": {name: _calibration(every, name) for name in _names(every, "signs")},
    }


def _names(every: Sequence[Segment], field: str) -> list[str]:
    return list(dict.fromkeys(name for one in every for name in getattr(one, field)))


def _at(every: Sequence[Segment], changes: Numbers, threshold: float) -> dict[str, Any]:
    large = np.abs(changes) >= threshold
    return {
        "segments": int(large.sum()),
        "up": int((changes[large] > 0).sum()),
        "where": {name: _auroc_of(every, "sizes", name, large, np.ones_like(large)) for name in _names(every, "sizes")},
        "sign": {name: _auroc_of(every, "signs", name, changes > 0, large) for name in _names(every, "signs")},
    }


def _auroc_of(
    every: Sequence[Segment], field: str, name: str, labels: NDArray[np.bool_], among: NDArray[np.bool_]
) -> list[float | None]:
    rows = [index for index in np.flatnonzero(among).tolist() if name in getattr(every[index], field)]
    scores = np.array([getattr(every[index], field)[name] for index in rows])
    question = np.array([every[index].question for index in rows], dtype=np.int64)
    chosen = labels[rows]
    return with_interval(question, lambda items: _auroc(scores[items], chosen[items]))


def _whole(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    found: dict[str, list[tuple[int, float, bool]]] = {}
    for row in rows:
        for one in row["completions"]:
            for name, values in one["signals"].items():
                if name.endswith((": i", ": i d")) or name == "log-ratio":
                    found.setdefault(name, []).append((row["question"], sum(values), one["reward"] == 1.0))
    return {name: _whole_of(items) for name, items in found.items()}


def _whole_of(items: Sequence[tuple[int, float, bool]]) -> list[float | None]:
    question, scores, right = (np.array(column) for column in zip(*items, strict=True))
    return with_interval(question, lambda chosen: _auroc(scores[chosen], right[chosen]))


def _halves(every: Sequence[Segment], name: str) -> list[float | None]:
    found = []
    for late in (False, True):
        rows = [
            one
            for one in every
            if name in one.signs and abs(one.change) >= THRESHOLDS[0] and (one.position >= 0.5) == late
        ]
        scores, up = np.array([one.signs[name] for one in rows]), np.array([one.change > 0 for one in rows], dtype=bool)
        found.append(_finite(_auroc(scores, up)))
    return found


def _calibration(every: Sequence[Segment], name: str) -> list[float]:
    rows = sorted((one.signs[name], one.change) for one in every if name in one.signs)
    return [
        float(np.mean([change for _, change in part])) for part in np.array_split(np.array(rows), _BINS) if len(part)
    ]
