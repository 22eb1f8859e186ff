"""One self-contained HTML page: it opens from the disk, asks nobody for anything, and runs no code but its own.

Nothing of a completion is ever markup: all data stand in one JSON block, and the page puts them in as text.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from dgpo.credit_log.files import CompletionCredit, LoggedStep
from dgpo.lab.report.credit_summary import summarize_credit, weight_reach
from dgpo.lab.runs.reader import Run
from dgpo.versions import __version__

MAX_CHARACTERS = 4_900_000
"""Room for all data of a page, in characters of JSON; with our own files, some 50 kB, the page stays below 5 MB."""
MAX_CREDIT_CHARACTERS = 3_500_000
"""Room for the credit of all runs, where the curves leave it."""
MAX_CURVES_CHARACTERS = 1_500_000
"""Room for the curves of all runs."""

MAX_POINTS, FEWEST_POINTS = 1000, 10  # of a curve
_PROMPT_CHARACTERS = 20_000  # of JSON, in which a character that is not ASCII takes six, an emoji twelve
_SUMMARY_CHARACTERS = 200  # of a token's text in a table, which shows less of it
_TOKEN_STEPS = (20_000, 4096, 1024, 256)
_PLACES_STEPS = (64, 16, 4, 0)


def render_page(runs: Sequence[Run], *, kind: str, title: str, facts: dict[str, str] | None = None) -> str:
    """Return the page.

    Args:
        runs: One run, or several side by side.
        kind: `"report"`, or `"inspect"` for text that no run made.
        title: The heading.
        facts: What to say below it.

    Returns:
        HTML, below 5 MB.

    Example:
        >>> page = render_page([Run("one")], kind="report", title="</title><script>alert(1)</script>")
        >>> "<script>alert" in page
        False
    """
    from jinja2 import Environment
    from markupsafe import Markup

    files = resources.files("dgpo.lab.report").joinpath("page_files")
    style, *scripts = (files.joinpath(name).read_text("utf-8") for name in ("page.css", "curves.js", "credit.js"))
    script = "\n".join(scripts)
    data = {
        "kind": kind,
        "title": title,
        "facts": list((facts or {}).items()),
        "runs": _fitted(runs),
        "differences": config_differences(runs),
        "version": __version__,
    }
    template = Environment(autoescape=True).from_string(files.joinpath("page.html").read_text("utf-8"))
    # Marked as safe: our own files, and JSON without a single `<`.
    return template.render(
        title=title,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded_json(data)),
    )


def embedded_json(data: Any) -> str:
    """Return JSON that may stand inside of a `<script>` element: no character of it means anything to HTML.

    Args:
        data: Plain values; nan and infinity become null.

    Returns:
        ASCII without `<`, `>` and `&`.

    Example:
        >>> embedded_json({"text": "</script>"})
        '{"text":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(_plain(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def config_differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return the settings in which runs differ, with one value a run; a value that is not there is a dash."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    rows = [(name, [_text(run.config.get(name)) for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _text(value: Any) -> str:
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _fitted(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs as plain values, with as much of their credit as everything else leaves room for."""
    reach = max((weight_reach(run.steps) for run in runs), default=0.0)  # histograms side by side have one axis
    curves = _curves(runs)
    found = [_without_credit(run, own, reach) for run, own in zip(runs, curves, strict=True)]
    room = min(MAX_CREDIT_CHARACTERS, MAX_CHARACTERS - len(embedded_json([found, config_differences(runs)])))
    for run, row in zip(runs, found, strict=True):
        row["credit"], notes = _within(run.steps, max(room, 0) // len(runs))
        row["notes"] += notes
    return found


def _curves(runs: Sequence[Run]) -> list[dict[str, list[tuple[int, float]]]]:
    """The curves of each run, with fewer points the more runs and metrics there are."""
    count = max(FEWEST_POINTS, MAX_POINTS // max(1, len(runs)))
    while True:
        found = [{name: _thinned(points, count) for name, points in run.curves.items()} for run in runs]
        if count == FEWEST_POINTS or len(embedded_json(found)) <= MAX_CURVES_CHARACTERS:
            return found
        count = max(FEWEST_POINTS, count // 2)


def _without_credit(run: Run, curves: dict[str, list[tuple[int, float]]], reach: float) -> dict[str, Any]:
    summary = summarize_credit(run.steps, reach=reach)
    for row in (*summary["most"], *summary["least"]):
        row["text"] = row["text"][:_SUMMARY_CHARACTERS]
    return {
        "name": run.name,
        "curves": curves,
        "config": [(name, _text(value)) for name, value in run.config.items()],
        "figures": list(run.figures.items()),
        "notes": list(run.notes),
        "credit": [],
        "summary": summary,
    }


def _within(steps: Sequence[LoggedStep], budget: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Cut alternatives first, then the ends of long completions, then steps, until the rest has room."""
    attempts = [(_TOKEN_STEPS[0], places) for places in _PLACES_STEPS] + [(tokens, 0) for tokens in _TOKEN_STEPS[1:]]
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    for tokens, places in attempts:
        rows = [_step(step, tokens, places) for step in steps]
        if sum(map(_size, rows)) <= budget:
            break
    else:
        sizes = list(map(_size, rows))
        count = max(1, int(len(rows) * budget / sum(sizes)))
        rows = _thinned(rows, count)
        while len(rows) > 1 and sum(map(_size, rows)) > budget:
            rows = _thinned(rows, len(rows) - 1)
        notes.append(
            f"Shown are {len(rows)} of {len(steps)} logged steps; all of them are in the run's credit/ folder."
        )
        notes += _fewer_completions(rows[-1], budget) if sum(map(_size, rows)) > budget else []
    if any(len(c.ids) > tokens for step in steps for c in step.completions):
        notes.append(f"Of long completions the first {tokens:,} tokens are shown.")
    if places < _PLACES_STEPS[0] and any(c.alternatives for step in steps for c in step.completions):
        kept = f"at {places} places of a completion" if places else "nowhere"
        notes.append(f"For want of room the likeliest tokens are shown {kept}.")
    return rows, notes


def _fewer_completions(row: dict[str, Any], budget: int) -> list[str]:
    """Leave out completions of the one step that is left, until the others have room; say so."""
    logged = len(row["completions"])
    while row["completions"] and _size(row) > budget:
        row["completions"].pop()
    return [f"Of that step's {logged} completions, {len(row['completions'])} have room."]


def _size(row: dict[str, Any]) -> int:
    return len(embedded_json(row))


def _thinned(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spread, the last one among them."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def _step(step: LoggedStep, max_tokens: int, max_places: int) -> dict[str, Any]:
    return {
        "step": step.step,
        "out_of": step.header.get("out_of"),
        "completions": [_completion(found, max_tokens, max_places) for found in step.completions],
    }


def _completion(full: CompletionCredit, max_tokens: int, max_places: int) -> dict[str, Any]:
    kept = full.first(max_tokens)
    places = sorted(kept.alternatives, key=lambda index: -(kept.s[index] or 0.0))[:max_places]
    return {
        "prompt": _shortened(kept.prompt, _PROMPT_CHARACTERS),
        "tokens": kept.tokens,
        "w": kept.w,
        "d": kept.d,
        "h": kept.h,
        "s": kept.s,
        "p": kept.logp,
        "r": kept.log_ratio,
        "a": kept.advantage,
        "reward": kept.reward,
        "rewards": list(kept.rewards.items()),
        "cut": kept.truncated,
        "n": kept.num_tokens,
        "share": kept.effective_share,
        "alt": {index: [kept.alternatives[index].get(who, []) for who in ("policy", "reference")] for index in places},
    }


def _shortened(text: str, most: int) -> str:
    """The text, or as much of its beginning as is embedded in so many characters."""
    if len(embedded_json(text)) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(embedded_json(text[:middle])) <= most else (low, middle - 1)
    return text[:low] + " …"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return (float(f"{value:.5g}") if value != int(value) else int(value)) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
