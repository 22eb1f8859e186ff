"""Results and comparisons as tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dgpo.lab.evaluation.compare import Comparison
from dgpo.lab.foreign_text import say, visible

_MOST_ROWS = 40


def print_result(result: dict[str, Any], console: Console, ks: Sequence[int] | None = None) -> None:
    """Print the figures of a result as a table.

    Args:
        result: What `result.json` holds.
        console: Where to print.
        ks: Which pass@k; by default the powers of 2, and n.
    """
    settings, metrics, n = result["settings"], result["metrics"], result["samples_per_problem"]
    chosen = set(ks or [k for k in range(1, n + 1) if k & (k - 1) == 0 or k == n])
    table = Table(box=None, pad_edge=False)
    for heading in ("", "", "95 % interval"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, estimate in metrics.items():
        if name.startswith("pass@") and int(name[5:]) not in chosen:
            continue
        scale, unit = (1, "") if name == "tokens" else (100, " %")
        ends = [f"{scale * estimate[end]:.1f}" if estimate[end] is not None else "?" for end in ("low", "high")]
        table.add_row(Text(visible(name)), f"{scale * estimate['value']:.1f}{unit}", f"{ends[0]} to {ends[1]}")
    problems = f"{settings['task']}: {result['problems']} problems x {n} completions, protocol {settings['protocol']}"
    sampled = (
        f"temperature {settings['temperature']}, top_p {settings['top_p']}, at most {settings['max_tokens']} tokens"
    )
    say(f"{problems}; {sampled}", console)
    console.print(table)
    counts = ", ".join(f"{outcome} {count}" for outcome, count in result["outcomes"].items())
    say(f"outcomes: {counts}", console)
    if result["unscored_problems"]:
        say(f"{result['unscored_problems']} problems have a gold answer that cannot be read; not counted.", console)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a comparison problem by problem, its differences and the verdict.

    Args:
        comparison: What `compare` returned.
        console: Where to print.
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("problem", comparison.first, comparison.second, "difference"):
        table.add_column(Text(visible(heading)), justify="left" if heading == "problem" else "right")
    ordered = sorted(comparison.problems, key=lambda row: row[1] - row[2])
    shown = ordered if len(ordered) <= _MOST_ROWS else [*ordered[: _MOST_ROWS // 2], *ordered[-_MOST_ROWS // 2 :]]
    for index, (name, a, b) in enumerate(shown):
        if len(shown) < len(ordered) and index == _MOST_ROWS // 2:
            table.add_row(f"... {len(ordered) - len(shown)} more", "", "", "")
        table.add_row(Text(visible(name)), f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (b - a):+.1f}")
    console.print(table)
    figures = Table(box=None, pad_edge=False)
    for heading in ("", "difference", "95 % interval"):
        figures.add_column(heading, justify="right" if heading else "left")
    for name, difference in comparison.differences.items():
        k = int(name[5:]) if name.startswith("pass@") else 1
        if k & (k - 1):
            continue
        scale = 1 if name == "tokens" else 100
        ends = [f"{scale * end:+.1f}" if end is not None else "?" for end in (difference.low, difference.high)]
        figures.add_row(Text(visible(name)), f"{scale * difference.value:+.1f}", f"{ends[0]} to {ends[1]}")
    console.print(figures)
    say(comparison.verdict, console)
