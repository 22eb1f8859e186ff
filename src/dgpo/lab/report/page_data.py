"""The data of a page: runs as plain values, with as much of their curves and credit as a page has room for."""

import json
from collections.abc import Sequence
from typing import Any

from dgpo.credit_log import CompletionCredit, LoggedStep
from dgpo.credit_log.record import Column
from dgpo.io import finite
from dgpo.lab.report.credit_summary import histogram_edges, summarize_credit
from dgpo.lab.report.differences import as_text, config_differences, run_labels
from dgpo.lab.report.groups import groups_of
from dgpo.lab.runs.reader import Run

MAX_CHARACTERS = 4_900_000
"""Room for all data of a page, in characters of JSON; with our own files, some 60 kB, the page stays below 5 MB."""
MAX_CREDIT_CHARACTERS = 3_500_000
"""Room for the credit of all runs, where the curves leave it."""
MAX_CURVES_CHARACTERS = 1_500_000
"""Room for the curves of all runs."""

MAX_POINTS, FEWEST_POINTS = 1000, 10  # of a curve
_DIGITS = 5  # significant, of a number
_PROMPT_CHARACTERS = 20_000  # of JSON, in which a character that is not ASCII takes six, an emoji twelve
_SUMMARY_CHARACTERS = 200  # of a token's text in a table, which shows less of it
_TOKEN_STEPS = (20_000, 4096, 1024, 256)
_PLACES_STEPS = (64, 16, 4, 0)


def fitted_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return runs as plain values, with as much of their credit as everything else leaves room for.

    Args:
        runs: One run, or several side by side.

    Returns:
        What the page's script reads; notes say what had no room.
    """
    edges = histogram_edges(run.steps for run in runs)  # histograms side by side have one axis
    labels = run_labels(runs)
    rows = [_without_credit(*parts, edges) for parts in zip(runs, labels, _curves(runs), strict=True)]
    others = embedded_json([rows, config_differences(runs)])
    room = max(0, min(MAX_CREDIT_CHARACTERS, MAX_CHARACTERS - len(others)))
    for run, row in zip(runs, rows, strict=True):
        row["credit"], notes = _within(run.steps, room // len(runs))
        row["notes"] += notes
    return rows


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
    text = json.dumps(finite(data, digits=_DIGITS), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _curves(runs: Sequence[Run]) -> list[dict[str, list[tuple[int, float]]]]:
    """The curves of each run, with fewer points the more runs and metrics there are."""
    count = max(FEWEST_POINTS, MAX_POINTS // max(1, len(runs)))
    while True:
        curves = [{name: _thinned(points, count) for name, points in run.curves.items()} for run in runs]
        if count == FEWEST_POINTS or len(embedded_json(curves)) <= MAX_CURVES_CHARACTERS:
            return curves
        count = max(FEWEST_POINTS, count // 2)


def _without_credit(
    run: Run, label: str, curves: dict[str, list[tuple[int, float]]], edges: list[float]
) -> dict[str, Any]:
    summary = summarize_credit(run.steps, edges=edges)
    for row in (*summary["most"], *summary["least"]):
        row["text"] = row["text"][:_SUMMARY_CHARACTERS]
    return {
        "name": run.name,
        "label": label,
        "rule": rule_text(run.steps),
        "curves": curves,
        "config": [(name, as_text(value)) for name, value in run.config.items()],
        "figures": list(run.figures.items()),
        "notes": list(run.notes),
        "credit": [],
        "summary": summary,
    }


def rule_text(steps: Sequence[LoggedStep]) -> str | None:
    """Return the credit rule of a log and its options as text; `None` where there is none."""
    header = steps[-1].header if steps else {}
    if "rule" not in header:
        return None
    options = ", ".join(f"{name} {as_text(value)}" for name, value in header.get("options", {}).items())
    return f"{header['rule']}" + (f" ({options})" if options else "")


def _within(steps: Sequence[LoggedStep], budget: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Cut alternatives first, then long completions, then steps, until the rest has room."""
    attempts = [(_TOKEN_STEPS[0], places) for places in _PLACES_STEPS] + [(tokens, 0) for tokens in _TOKEN_STEPS[1:]]
    notes: list[str] = []
    sized: list[tuple[dict[str, Any], int]] = []  # sizes take the time: each is measured once
    for tokens, places in attempts:
        sized = [(row, _size(row)) for row in (_step(step, tokens, places) for step in steps)]
        if _total(sized) <= budget:
            break
    else:
        sized = _thinned(sized, max(1, int(len(sized) * budget / _total(sized))))
        while len(sized) > 1 and _total(sized) > budget:
            sized = _thinned(sized, len(sized) - 1)
        notes.append(
            f"Shown are {len(sized)} of {len(steps)} logged steps; all of them are in the run's credit/ folder."
        )
        notes += _fewer_completions(sized[-1][0], budget) if _total(sized) > budget else []
    rows = [row for row, _ in sized]
    if any(len(c.ids) > tokens for step in steps for c in step.completions):
        notes.append(f"Of long completions {tokens:,} tokens are shown, the first and the last ones.")
    if places < _PLACES_STEPS[0] and any(c.alternatives for step in steps for c in step.completions):
        where = f"at {places} places of a completion" if places else "nowhere"
        notes.append(f"For want of room the likeliest tokens are shown {where}.")
    return rows, notes


def _fewer_completions(row: dict[str, Any], budget: int) -> list[str]:
    """Leave out completions of the one step that is left, until the others have room; say so."""
    groups = row["groups"]
    logged = sum(len(group["completions"]) for group in groups)
    while groups and _size(row) > budget:
        groups[-1]["completions"].pop()
        if not groups[-1]["completions"]:
            groups.pop()
    shown = sum(len(group["completions"]) for group in groups)
    return [f"Of that step's {logged} completions, {shown} have room."]


def _total(sized: Sequence[tuple[dict[str, Any], int]]) -> int:
    return sum(size for _, size in sized)


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
    groups = []
    for members in groups_of(step):
        first = members[0][1]
        completions = [_completion(index, completion, max_tokens, max_places) for index, completion in members]
        prompt = {"prompt": _shortened(first.prompt, _PROMPT_CHARACTERS), "answer": first.answer}
        groups.append({**prompt, "completions": completions})
    return {"step": step.step, "groups": groups}


def _completion(index: int, whole: CompletionCredit, max_tokens: int, max_places: int) -> dict[str, Any]:
    shown = whole.shortened(max_tokens)
    sizes = [abs(x or 0.0) for x in (shown.s if _column(shown.s) else shown.credit)]
    places = sorted(shown.alternatives, key=lambda place: -sizes[place])[:max_places]
    return {
        "id": index,
        "tokens": shown.tokens,
        "w": _column(shown.w),
        "t": _column(shown.a),
        "d": _column(shown.d),
        "h": _column(shown.h),
        "s": _column(shown.s),
        "p": _column(shown.logp),
        "r": _column(shown.log_ratio),
        "columns": {name: column for name, values in shown.columns.items() if (column := _column(values))},
        "a": shown.advantage,
        "reward": shown.reward,
        "rewards": list(shown.rewards.items()),
        **{
            name: None if text is None else _shortened(text, _PROMPT_CHARACTERS)
            for name, text in (("hint", shown.hint), ("control", shown.control))
        },
        "agreement": shown.hint_agreement,
        "ended": shown.ended,
        "n": shown.num_tokens,
        "head": shown.head,
        "share": shown.effective_share,
        "alt": {place: [shown.alternatives[place].get(who, []) for who in ("policy", "reference")] for place in places},
    }


def _column(values: Column) -> Column | None:
    """The numbers, or None where there are none."""
    return values if any(value is not None for value in values) else None


def _shortened(text: str, most: int) -> str:
    """The text, or as much of its beginning as is embedded in so many characters."""
    if len(embedded_json(text)) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(embedded_json(text[:middle])) <= most else (low, middle - 1)
    return text[:low] + " …"
