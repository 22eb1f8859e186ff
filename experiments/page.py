"""Writes docs/results.md, and a table of the README, from the committed results: `python -m experiments.page`."""

import argparse
import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from experiments import single_runs
from experiments.added import is_timed
from experiments.report import ROOT, Verdict, folded, markdown_table

PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
_MARKED = re.compile(r"(<!-- results: smollm2 -->\n).*?(<!-- end of results -->)", re.DOTALL)
EXPERIMENTS = {
    "credit": "python -m experiments.credit",
    "hindsight": "python -m experiments.hindsight",
    "surface": "python -m experiments.surface",
    "value_ground_truth": "python -m experiments.value_ground_truth --model MODEL --task sums --commit NAME",
    "gradient_stability": "python -m experiments.gradient_stability",
    "smollm2": "make smollm2 && python -m experiments.smollm2",
}
"""Package and command of each experiment, in the order of the page."""
_DOWNLOADED = ("value_ground_truth", "smollm2")
"""Those that `make experiments` leaves out, as they need a model."""

_HEADER = """# Results

What this project has measured for and against the claims of the paper (arXiv:2605.03327), at sizes that run on two
processor cores. This page is generated: `python -m experiments.page` writes it from the committed results in
`experiments/*/results`, `docs/results` and `benchmarks/results`, and a test fails where the two differ. Each chapter
ends with its command, date, machine and versions. Intervals are 95 % unless stated otherwise. Those over seeds are
Student's; where two methods are compared, they are of the paired differences between runs of equal seeds. A range from
the smallest to the largest seed is named as such.

Speed, memory and other properties of this implementation: [benchmarks.md](benchmarks.md)."""

_FIGURES_OF_THE_PAPER = Verdict(
    "60.0 Avg@32 on AIME 2024, 46.0 on AIME 2025 with Qwen2.5-32B, ahead of DAPO",
    "not testable at this size",
    "It takes a 32-billion-parameter model and a cluster. The recipes and the evaluation protocol exist and have not "
    "been run.",
    short="needs 32 billion parameters and a cluster",
)
_NO_RESULTS = "Not run yet: `{command}`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both, or say whether they are what the results give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    options = parser.parse_args(arguments)
    texts = {PAGE: page(), README: readme()}
    stale = [path for path, text in texts.items() if path.read_text() != text]
    for path in stale:
        if options.check:
            print(f"{path.relative_to(ROOT)} is out of date; run `python -m experiments.page`.", file=sys.stderr)
        else:
            path.write_text(texts[path])
    return int(options.check and bool(stale))


def readme() -> str:
    """Return the README with its table of SmolLM2, between two marks, as the committed results give it."""
    results = _committed("smollm2")
    table = _page_of("smollm2").short_table(results) if results else ""
    return _MARKED.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", README.read_text())


def page() -> str:
    """Return the page: a function of the committed results alone.

    Returns:
        Markdown.
    """
    results = {name: _committed(name) for name in EXPERIMENTS}
    chapters = [_chapter(name, one) for name, one in results.items()]
    parts = [_HEADER, _again(results), _advice(results), _verdicts(results), *chapters, *single_runs.chapters()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _committed(name: str) -> dict[str, Any] | None:
    """The committed results of an experiment, or `None`."""
    files = sorted((ROOT / "experiments" / name / "results").glob("*.json"))
    return json.loads(files[0].read_text()) if files else None


def _again(results: Mapping[str, Mapping[str, Any] | None]) -> str:
    """What it takes to make the figures again that need no download; nothing where a record is missing."""
    records = [one["record"] for name, one in results.items() if one and name not in _DOWNLOADED]
    if len(records) < len(results) - len(_DOWNLOADED):
        return ""
    cells, seconds = (sum(record[key] for record in records) for key in ("cells", "cpu_seconds"))
    text = f"All but what needs a model to download is made again by `make experiments`: {cells:,} cells"
    if all(map(is_timed, records)):
        elapsed = sum(record["wall_seconds"] for record in records)
        return f"{text}, which took {elapsed / 60:.0f} minutes here (machine and date below each chapter)."
    return f"{text}, {seconds / 60:.0f} minutes of a processor."


def _page_of(name: str) -> ModuleType:
    return importlib.import_module(f"experiments.{name}.page")


def _chapter(name: str, results: dict[str, Any] | None) -> str:
    if results is None:
        return f"## `{name}`\n\n{_NO_RESULTS.format(command=EXPERIMENTS[name])}"
    return str(_page_of(name).section(results)).strip()


def _advice(results: dict[str, dict[str, Any] | None]) -> str:
    """What a user should make of it, a point for each experiment that says something."""
    points = [advice for name, one in results.items() if one and (advice := _page_of(name).advice(one))]
    return "\n".join(["## What this means for you", "", *(f"- {point}" for point in points)]) if points else ""


def _verdicts(results: dict[str, dict[str, Any] | None]) -> str:
    rows = [("the paper", _FIGURES_OF_THE_PAPER)]
    for name, one in results.items():
        rows += [(f"`{name}`", verdict) for verdict in (_page_of(name).verdicts(one) if one else ())]
    rows += [("`train_step`", verdict) for verdict in single_runs.costs()]
    # Claims without support come first.
    rows.sort(key=lambda row: (row[1].asked_by == "us", _VERDICTS.index(row[1].verdict)))
    numbered = [(number, source, verdict) for number, (source, verdict) in enumerate(rows, start=1)]
    missing = [name for name, one in results.items() if one is None]
    note = "".join(f"\n\n`{name}`: {_NO_RESULTS.format(command=EXPERIMENTS[name])}" for name in missing)
    parts = [
        _counted("Claims of the paper", [row for row in numbered if row[2].asked_by == "the paper"]),
        _counted("Questions of our own", [row for row in numbered if row[2].asked_by == "us"]),
    ]
    reasons = [folded(f"{number}. {verdict.claim}: {verdict.verdict}", verdict.why) for number, _, verdict in numbered]
    chapters = [*(part for part in parts if part), "### The figures behind each verdict", *reasons]
    return "\n\n".join(["## Verdicts", *chapters]) + note


def _counted(title: str, rows: list[tuple[int, str, Verdict]]) -> str:
    if not rows:
        return ""
    counts = {word: sum(v.verdict == word for *_, v in rows) for word in _VERDICTS}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items())
    table = markdown_table(
        ["", "claim", "verdict", "in short", "from"],
        [[number, v.claim, f"**{v.verdict}**", v.short, source] for number, source, v in rows],
    )
    return f"### {title}\n\nOf {len(rows)}: {summary}.\n\n{table}"


_VERDICTS = ("not supported", "supported", "not testable at this size")

if __name__ == "__main__":
    sys.exit(main())
