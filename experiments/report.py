"""What the experiments say: paired intervals over seeds, verdicts, Markdown tables and figures."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dgpo.lab.evaluation.intervals import Estimate, student_quantile
from experiments.provenance import made_of

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"


@dataclass(frozen=True)
class Verdict:
    """What an experiment says about one claim.

    Attributes:
        claim: The claim, as it is made.
        verdict: One of three.
        why: Sentences with the figures and their intervals.
        short: The decisive figure in a few words, for the table of verdicts.
        figures: The figures of these sentences.
        asked_by: Whose claim it is; the paper's are counted apart from the others.
    """

    claim: str
    verdict: Literal["supported", "not supported", "not testable at this size"]
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    asked_by: Literal["the paper", "us"] = "the paper"
    short: str = ""


def interval(values: Sequence[float], *, level: float = 0.95, comparisons: int = 1) -> Estimate:
    """Return a mean over seeds with Student's interval: mean +- t * sd / sqrt(n).

    Args:
        values: One figure per seed.
        level: Probability that the interval covers the mean of all possible seeds.
        comparisons: How many intervals are looked at together; above 1 each is widened (Bonferroni) so that all of
            them cover with probability `level`.

    Returns:
        Mean and bounds; no bounds for fewer than two seeds.

    Example:
        >>> estimate = interval([1.0, 2.0, 3.0])    # sd 1, t = 4.303, 4.303 / sqrt(3) = 2.484
        >>> estimate.value, round(estimate.low, 3), round(estimate.high, 3)
        (2.0, -0.484, 4.484)
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Estimate(mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = student_quantile(1 - (1 - level) / (2 * comparisons), count - 1) * deviation / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def paired_difference(
    treated: Mapping[int, float], baseline: Mapping[int, float], *, level: float = 0.95, comparisons: int = 1
) -> Estimate:
    """Return how much better `treated` is than `baseline`, with Student's interval over the seeds both have.

    Equal seeds share initial weights and data; what they have in common cancels in the difference of the same seed.

    Args:
        treated: Seed to figure.
        baseline: Seed to figure.
        level: As for `interval`.
        comparisons: As for `interval`.

    Returns:
        Mean difference and bounds.

    Raises:
        ValueError: If they have no seed in common.

    Example:
        >>> estimate = paired_difference({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.6, 2: 0.1})
        >>> round(estimate.value, 3), round(estimate.high - estimate.low, 3)
        (0.1, 0.0)
    """
    shared = sorted(treated.keys() & baseline.keys())
    if not shared:
        raise ValueError(f"no seed in common: {sorted(treated)} and {sorted(baseline)}.")
    return interval([treated[seed] - baseline[seed] for seed in shared], level=level, comparisons=comparisons)


def above(estimate: Estimate, value: float = 0.0) -> bool:
    """Return whether an interval lies above a value."""
    return estimate.low is not None and estimate.low > value


def below(estimate: Estimate, value: float = 0.0) -> bool:
    """Return whether an interval lies below a value."""
    return estimate.high is not None and estimate.high < value


def shown(estimate: Estimate, *, digits: int = 3, signed: bool = False) -> str:
    """Return an estimate as a table shows it.

    Args:
        estimate: The estimate.
        digits: Decimals.
        signed: With a plus sign where it is positive.

    Returns:
        Mean, and bounds in brackets.

    Example:
        >>> shown(Estimate(0.25, 0.2, 0.3), digits=2, signed=True)
        '+0.25 (+0.20 to +0.30)'
    """
    form = f"{'+' if signed else ''}.{digits}f"
    if estimate.low is None or estimate.high is None:
        return format(estimate.value, form)
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown.

    Args:
        header: Names of the columns.
        rows: Their cells.

    Returns:
        Lines without a trailing newline.

    Example:
        >>> print(markdown_table(["rule", "final"], [["grpo", 0.5]]))
        | rule | final |
        |---|---|
        | grpo | 0.5 |
    """
    lines = [list(map(str, header)), ["---"] * len(header), *(list(map(str, row)) for row in rows)]
    return "\n".join(
        "|" + "|".join(line) + "|" if index == 1 else "| " + " | ".join(line) + " |" for index, line in enumerate(lines)
    )


def folded(title: str, *parts: str) -> str:
    """Return Markdown that a reader opens with a click, on the site as on GitHub.

    Args:
        title: What is always seen, as plain text.
        parts: Markdown.

    Returns:
        Markdown.

    Example:
        >>> print(folded("each seed: d < 1", "| a |"))
        <details markdown>
        <summary>each seed: d &lt; 1</summary>
        <BLANKLINE>
        | a |
        <BLANKLINE>
        </details>
    """
    body = "\n\n".join(part.strip() for part in parts)
    return f"<details markdown>\n<summary>{html.escape(title, quote=False)}</summary>\n\n{body}\n\n</details>"


def listed_verdicts(verdicts: Iterable[Verdict]) -> str:
    """Return a line for each verdict, for the start of a chapter."""
    return "\n".join(
        f"- {one.claim}: **{one.verdict}**" + (f" ({one.short})." if one.short else ".") for one in verdicts
    )


def record_line(record: Mapping[str, Any]) -> str:
    """Return the sentence below every table: command, machine, versions, date and times.

    Args:
        record: `Outcome.record`.

    Returns:
        Markdown.
    """
    made = made_of(record)
    earlier = 0 if record.get("made") else record["cells"] - record["cells_computed_by_this_command"]
    versions = ", ".join(f"{name} {' and '.join(each)}" for name, each in made["versions"].items())
    days = made["first"] if made["first"] == made["last"] else f"{made['first']} to {made['last']}"
    return (
        f"`{record['command']}`: {record['cells']} cells, made {days} on {' and '.join(made['machines'])}, Python "
        f"{' and '.join(made['python'])}, {versions}; {record['cpu_seconds'] / 60:.1f} CPU-minutes in all."
        + (f" {earlier} of them were computed by earlier commands." if earlier > 0 else "")
        + (f" {record['cells_missing']} planned cells had not been run." if record.get("cells_missing") else "")
    )


def save_figure(figure: Any, name: str, folder: Path | None = None) -> Path:
    """Write a figure as a small PNG, the same bytes for the same figure.

    Args:
        figure: Of `dgpo.lab.figures.new_figure`.
        name: Without suffix.
        folder: `docs/figures` by default.

    Returns:
        The file.
    """
    path = (folder or FIGURES) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path
