"""avg@n, pass@k and maj@k of n sampled completions per problem, with intervals that resample whole problems."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgpo.errors import DataError
from dgpo.lab.evaluation.intervals import bootstrap


@dataclass(frozen=True)
class Sample:
    """One completion, as the metrics need it.

    Attributes:
        score: 1 is right, 0 wrong, in between partly right; `None` if the gold answer cannot be read.
        answer: Its answer, as text; `None` if it has no answer.
        tokens: Its length.
        truncated: Whether it was cut off at the longest length allowed.
        unparseable: Whether no answer could be read from it.
        value: The answer's value, the same for most spellings of an equal answer; `None` where the text is all.
    """

    score: float | None
    answer: str | None = None
    tokens: int = 0
    truncated: bool = False
    unparseable: bool = False
    value: str | None = None


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that at least one of k samples is right, unbiased: `1 - C(n - c, k) / C(n, k)`.

    Chen et al. 2021 (arXiv:2107.03374), equation 1.

    Args:
        num_samples: n, the samples there are.
        num_correct: c, how many of them are right.
        k: How many may be tried, from 1 to n.

    Returns:
        A probability.

    Raises:
        DataError: If k is not from 1 to n.

    Example:
        >>> pass_at_k(4, 1, 2)  # 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6
        0.5
    """
    if not 1 <= k <= num_samples:
        raise DataError(f"pass@{k} needs at least {max(k, 1)} samples per problem, and there are {num_samples}.")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def majority_score(samples: Sequence[Sample]) -> float:
    """Return the score of the answer that most samples give; answers in a tie share it evenly.

    Samples without an answer do not vote. Answers that are right are one answer, however they are written; others are
    the same if their values are, or their texts where they have none, white space aside. Spellings of a wrong answer
    that are not seen to be equal (`\\sqrt{8}` and `2\\sqrt{2}`) split its votes, which flatters the model a little.

    Args:
        samples: The samples of one problem.

    Returns:
        From 0 to 1; 0 if no sample has an answer.

    Example:
        >>> majority_score([Sample(1.0, "0.5"), Sample(1.0, "1/2"), Sample(0.0, "2"), Sample(0.0, None)])
        1.0
        >>> majority_score([Sample(1.0, "3"), Sample(0.0, "2")])
        0.5
        >>> majority_score([Sample(1.0, "3"), Sample(0.0, "1/2", value="1/2"), Sample(0.0, "0.5", value="1/2")])
        0.0
    """
    votes: dict[str | None, list[float]] = {}
    for sample in samples:
        right = sample.score is not None and sample.score >= 1
        if right or (sample.answer is not None and not sample.unparseable):
            key = None if right else "".join(str(sample.value or sample.answer).split())
            votes.setdefault(key, []).append(sample.score or 0.0)
    most = max(map(len, votes.values()), default=0)
    winners = [sum(scores) / len(scores) for scores in votes.values() if len(scores) == most]
    return sum(winners) / len(winners) if winners else 0.0


def per_problem(samples: Sequence[Sample], ks: Sequence[int]) -> dict[str, float]:
    """Return the figures of one problem; the metrics are their means over problems.

    Args:
        samples: Its samples, at least one, all with a score.
        ks: For which k to estimate pass@k.

    Returns:
        `avg`, `pass@<k>`, `maj`, `truncated`, `unparseable` and `tokens`.

    Example:
        >>> per_problem([Sample(1.0, "3", 10), Sample(0.0, "2", 20)], [1, 2])["pass@2"]
        1.0
    """
    count = len(samples)
    correct = sum(1 for sample in samples if (sample.score or 0.0) >= 1)
    figures = {"avg": sum(sample.score or 0.0 for sample in samples) / count}
    figures |= {f"pass@{k}": pass_at_k(count, correct, k) for k in ks}
    figures["maj"] = majority_score(samples)
    figures["truncated"] = sum(sample.truncated for sample in samples) / count
    figures["unparseable"] = sum(sample.unparseable for sample in samples) / count
    figures["tokens"] = sum(sample.tokens for sample in samples) / count
    return figures


def scored_problems(problems: Mapping[str, Sequence[Sample]]) -> dict[str, Sequence[Sample]]:
    """Return the problems whose gold answer can be read; the others do not measure a model.

    Args:
        problems: The samples of each problem.

    Returns:
        Those of which every sample has a score.

    Raises:
        DataError: If there is none.

    Example:
        >>> list(scored_problems({"a": [Sample(1.0)], "b": [Sample(None)]}))
        ['a']
    """
    scored: dict[str, Sequence[Sample]] = {
        name: list(samples)
        for name, samples in problems.items()
        if samples and all(sample.score is not None for sample in samples)
    }
    if not scored:
        raise DataError("none of the problems has a gold answer that can be read, so there is nothing to measure.")
    return scored


def summarize(problems: Mapping[str, Sequence[Sample]], *, seed: int = 0) -> dict[str, Any]:
    """Return every metric with its interval.

    Args:
        problems: The samples of each problem, n of each.
        seed: Of the resampling.

    Returns:
        `problems`, `samples_per_problem`, `unscored_problems`, and `metrics`: name to `Estimate`; `avg@n`, `maj@n`,
        `pass@k` for each k up to n, `truncated`, `unparseable`, `tokens`.

    Raises:
        DataError: If problems have different numbers of samples, or none can be scored.

    Example:
        >>> summary = summarize({"a": [Sample(1.0), Sample(0.0)], "b": [Sample(0.0), Sample(0.0)]})
        >>> summary["metrics"]["avg@2"].value, summary["metrics"]["pass@2"].value
        (0.25, 0.5)
    """
    scored = scored_problems(problems)
    counts = {len(samples) for samples in scored.values()}
    if len(counts) > 1:
        raise DataError(f"problems have between {min(counts)} and {max(counts)} samples; each must have as many.")
    count = counts.pop()
    figures = [per_problem(samples, range(1, count + 1)) for samples in scored.values()]
    names = list(figures[0])
    shares = [name for name in names if name != "tokens"]
    estimates = bootstrap([[row[name] for name in shares] for row in figures], kind="share", seed=seed)
    estimates += bootstrap([[row["tokens"]] for row in figures], kind="amount", seed=seed)
    shown = {"avg": f"avg@{count}", "maj": f"maj@{count}"}
    return {
        "problems": len(scored),
        "samples_per_problem": count,
        "unscored_problems": len(problems) - len(scored),
        "metrics": {
            shown.get(name, name): estimate for name, estimate in zip([*shares, "tokens"], estimates, strict=True)
        },
    }
