"""What the measurements say, as Markdown and verdicts, from the committed results."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from experiments.report import Verdict, folded, markdown_table
from experiments.value_ground_truth.measure import LOG_GOLD, TAUGHT

_STRICT = "0.375"
_NUMBER = re.compile(r"(\d+)")
_WHERE = ("entropy", "attention of the answer", "solution: d", "solution: d h")
_SIGN = ("surprisal", LOG_GOLD, TAUGHT, "answer: i", "solution: i", "sibling: i")
_WHOLE = ("answer: i", "solution: i")
"""The signals of the overview; what has no column there stands in the tables."""
_STEP, _TOLD = "_step", "solution: i"
"""Names of measurements on the way through a training end so; and the signal that is compared there."""
_BAR = 0.85
"""AUROC of the sign between those at which wrong hints leave hindsight most and nothing of its gain on `forks`."""


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the measurements say.

    Args:
        results: Per name a summary.

    Returns:
        One verdict on the steps, one on the likelihood of the answer where it was asked for behind interrupted
        examples, and one on whole completions for each model that was measured on its way.
    """
    ordered = {name: results[name] for name in _in_order(results)}
    return [_knows_the_sign(ordered), *_likelihood_knows(ordered), *_know_after_training(ordered)]


def _knows_the_sign(results: Mapping[str, Any]) -> Verdict:
    signs = {name: one["large"][_STRICT]["sign"] for name, one in results.items()}
    hinted = {
        (name, signal): found
        for name, of_signals in signs.items()
        for signal, found in of_signals.items()
        if signal.endswith(": i") and found[0] is not None
    }
    best = {
        name: max((key for key in hinted if key[0] == name), key=lambda key: hinted[key][0], default=None)
        for name in results
    }
    shown = "; ".join(f"`{name}`: {key[1]} {_shown(hinted[key])}" for name, key in best.items() if key)
    holds = bool(best) and all(key and hinted[key][1] is not None and hinted[key][1] > _BAR for key in best.values())
    why = (
        f"AUROC of the best hint's log-ratio for the sign of a change of the value of {_STRICT} or more: "
        f"{shown or 'none was measured'}. The bar is {_BAR}: on `forks` wrong hints leave hindsight most of its gain "
        "above it and none that is certain below (*gold 1 in 10 wrong*, *gold 1 in 4 wrong*). An interval must lie "
        "above it in all tables."
    )
    short = _listed({name: hinted[key] for name, key in best.items() if key})
    claim = "A hinted reference knows the sign of a decisive step of a real language model"
    return Verdict(claim, "supported" if holds else "not supported", why, asked_by="us", short=short)


def _likelihood_knows(results: Mapping[str, Any]) -> list[Verdict]:
    """Whether the model itself knows the sign, without hint and reference, once it is shown how to answer early."""
    signs = {name: one["large"][_STRICT]["sign"] for name, one in results.items()}
    both = {name: (found[TAUGHT], found[LOG_GOLD]) for name, found in signs.items() if TAUGHT in found}
    if not both:
        return []
    listed = "; ".join(
        f"`{name}`: {_shown(taught)}, untaught {_shown(plain)}" for name, (taught, plain) in both.items()
    )
    why = (
        f"AUROC of the change of the answer's log-likelihood for the sign of a change of the value of {_STRICT} or "
        f"more: {listed}. Taught: the worked examples before the question are interrupted and answered all the same. "
        "An interval must lie above .5 in all tables. It takes a forward pass for each cut, no hint and no reference."
    )
    holds = all(taught[1] is not None and taught[1] > 0.5 for taught, _ in both.values())
    return [
        Verdict(
            "Shown interrupted examples, a model's own likelihood of the answer knows the sign of a decisive step",
            "supported" if holds else "not supported",
            why,
            asked_by="us",
            short=_listed({name: taught for name, (taught, _) in both.items()}),
        )
    ]


def _know_after_training(results: Mapping[str, Any]) -> list[Verdict]:
    """Whether a solution tells right completions from wrong ones as well at the last step as at the first."""
    on_the_way: dict[str, list[tuple[int, list[float | None]]]] = {}
    for name, one in results.items():
        model, _, step = name.rpartition(_STEP)
        if model and step.isdigit() and _TOLD in one["whole"]:
            on_the_way.setdefault(model, []).append((int(step), one["whole"][_TOLD]))
    return [_still_knows(model, sorted(found)) for model, found in on_the_way.items() if len(found) > 1]


def _still_knows(model: str, found: Sequence[tuple[int, Sequence[float | None]]]) -> Verdict:
    listed = "; ".join(f"step {step}: {_shown(one)}" for step, one in found)
    before, after = found[0][1][0], found[-1][1][2]
    stays = before is not None and after is not None and before <= after
    why = (
        f"AUROC of the log-ratio's sum over a completion, shown the solution, for being right: {listed}. The policy is "
        "trained by GRPO, the reference stays. It holds where the first figure lies below the last one's upper bound."
    )
    return Verdict(
        f"What a frozen hinted reference knows of whole completions stays as the policy learns (`{model}`)",
        "supported" if stays else "not supported",
        why,
        asked_by="us",
        short=listed,
    )


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it."""
    verdict = verdicts(results)[0]
    return (
        "Want to know before training whether hindsight can teach your model? `python -m "
        "experiments.value_ground_truth --model M --task T` measures whether a hint knows the sign of the steps that "
        f"decide; for SmolLM2-135M: AUROC {verdict.short}."
    )


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    parts = [
        "## Where value changes in a real language model, and which signals know it",
        "Completions are cut every few tokens. The value of a prefix is the share of its continuations that is right, "
        "and its change over a segment is the ground truth of credit. *Where*: AUROC of the largest size of a signal "
        "in a segment for a large change, among all segments. *Sign*: AUROC of its sum (surprisal: of the largest, "
        "taken as against) for up rather than down, among the large changes. *Whole*: AUROC of its sum over a "
        "completion for being right. Intervals: 95 %, whole questions drawn again with replacement. Values have noise "
        "of their own, which pulls every figure towards .5. *Step N*: SmolLM2 after N steps of GRPO, kept by "
        "`python -m experiments.smollm2.checkpoint --task sums --steps 6,12`.",
    ]
    parts.append(_overview(results))
    for name in _in_order(results):
        parts.append(folded(f"{name}: every signal", table_of(results[name]), _record(results[name])))
    return "\n\n".join(parts) + "\n"


def _in_order(results: Mapping[str, Any]) -> list[str]:
    """Names as people count: step 6 before step 12."""
    return sorted(results, key=lambda name: [int(part) if part.isdigit() else part for part in _NUMBER.split(name)])


def _overview(results: Mapping[str, Any]) -> str:
    """The figures that decide, a line for each table."""
    rows = []
    for name in _in_order(results):
        one = results[name]
        at = one["large"][_STRICT]
        rows.append(
            [
                name,
                f"{one['accuracy']:.2f}",
                f"{at['segments']} of {one['segments']}",
                *(_shown(at["where"].get(signal)) for signal in _WHERE),
                *(_shown(at["sign"].get(signal)) for signal in _SIGN),
                *(_shown(one["whole"].get(signal)) for signal in _WHOLE),
            ]
        )
    header = ["measured", "right", "large changes", *(f"where: {one}" for one in _WHERE)]
    header += [f"sign: {one}" for one in _SIGN] + [f"whole: {one}" for one in _WHOLE]
    return f"Changes of {_STRICT} or more:\n\n" + markdown_table(header, rows)


def table_of(summary: Mapping[str, Any]) -> str:
    """Return the table of one model and task.

    Args:
        summary: What the command has written.

    Returns:
        Markdown.
    """
    large = summary["large"]
    counts = ", ".join(f"{one['segments']} with |change| >= {at} ({one['up']} up)" for at, one in large.items())
    names = list(dict.fromkeys(name for one in large.values() for name in (*one["where"], *one["sign"])))
    header = ["signal", *(f"{kind}, {at}" for kind in ("where", "sign") for at in large), "whole", "sign, early / late"]
    rows = [
        [
            name,
            *(_shown(one[kind].get(name)) for kind in ("where", "sign") for one in large.values()),
            _shown(summary["whole"].get(name)),
            " / ".join(_number(value) for value in summary["halves"].get(name, ())),
        ]
        for name in names
    ]
    settings = summary["settings"]
    return (
        f"{summary['completions']} completions of {settings['questions']} questions, right {summary['accuracy']:.2f}, "
        f"{summary['tokens']:.0f} tokens on average; {summary['segments']} segments of {settings['every']} tokens, "
        f"{counts}; {settings['continuations']} continuations a prefix.\n\n{markdown_table(header, rows)}\n\n"
        "Mean change of the value in fifths of the segments by a signal's sum: "
        + "; ".join(f"{name} {_list(values)}" for name, values in summary["calibration"].items())
        + "."
    )


def _listed(found: Mapping[str, Sequence[float | None]]) -> str:
    """Each measurement's figure behind its name: the part that tells it from the others."""
    words = [name.split("_") for name in found]
    shared = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*words, strict=False)))
    labels = [" ".join(one[shared:] or one) for one in words]
    return "; ".join(f"{label} {_shown(one)}" for label, one in zip(labels, found.values(), strict=True))


def _shown(found: Sequence[float | None] | None) -> str:
    if not found or found[0] is None:
        return ""
    value, low, high = found
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def _record(summary: Mapping[str, Any]) -> str:
    record = summary["record"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"`{record['command']}`: {record['date']}, {record['machine']}, Python {record['python']}, {versions}."
