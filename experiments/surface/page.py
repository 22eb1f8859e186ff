"""What the experiment says, as Markdown and verdicts, from its results."""

from collections.abc import Mapping
from typing import Any

from experiments.credit.comparison import mean, points
from experiments.report import Verdict, above, below, folded, markdown_table, record_line
from experiments.surface.comparison import differences, measured, num_comparisons
from experiments.surface.points import BASE, GRPO, SETTINGS, TAUS, Point

_LEARNT = 0.01
"""Area below which GRPO has learnt nothing."""


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the experiment says.

    Args:
        results: What the command has written.

    Returns:
        One verdict.
    """
    found = differences(results)
    better = [key for key, one in found.items() if above(one)]
    worse = [key for key, one in found.items() if below(one)]
    paper = next(iter(TAUS))
    values = [100 * one.value for (_, method), one in found.items() if method == paper]
    spread = f"{min(values):+.1f} to {max(values):+.1f} points"
    axes = len({point.axis for point in measured(results)})
    why = (
        f"Along {axes} settings the area with {paper} is {spread} from GRPO's. Beyond simultaneous intervals it is "
        f"better{_listed(better)} and worse{_listed(worse)}, of {num_comparisons(results)} comparisons of both "
        "temperatures."
    )
    return [
        Verdict(
            "There is a setting in which the paper's rule learns better than GRPO",
            "supported" if better else "not supported",
            why,
            asked_by="us",
            short=f"tau = .5: {spread}; {len(better)} better, {len(worse)} worse",
        )
    ]


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it; nothing where no point was measured."""
    found = differences(results)
    if not found:
        return ""
    named = {
        sign: _listed([key for key, one in found.items() if is_beyond(one)])
        for sign, is_beyond in (("better", above), ("worse", below))
    }
    return (
        "Looking for a setting in which the paper's weights matter? Learning rate, group size, updates, clip, length, "
        f"vocabulary and reference were moved one at a time: better{named['better']}, worse{named['worse']}."
    )


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    found = differences(results)
    rows = [
        [
            point.axis,
            point.value,
            _percent(results, point, GRPO, "area"),
            *(points(found[point, method]) for method in TAUS),
            *(_percent(results, point, method, "effective_share") for method in TAUS),
        ]
        for point in measured(results)
    ]
    header = ["setting", "value", "GRPO's area, %", *(f"{method}, less GRPO's" for method in TAUS)]
    header += [f"effective share, {method.removeprefix('dgpo ')}, %" for method in TAUS]
    return "\n\n".join(
        [
            "## Where the paper's rule could matter: a response surface",
            " ".join(verdict.why for verdict in verdicts(results)),
            "One setting at a time is moved away from `four forks`. Area under the learning curve, points, with "
            "simultaneous intervals (Bonferroni over the table). Groups: 32 completions a rollout in all. Updates: 40 "
            "rollouts each, so that more updates are more training. Vocabulary: words that are never likely are added "
            "to the gate's log V alone. The reference is renewed by copying the policy; a reference of a shorter "
            "warm-up than the policy's knows less than the policy does."
            + _said_of_long_warm_ups(results)
            + _said_of_mute_points(results),
            "![DGPO less GRPO along each setting](figures/surface.png)",
            folded("every point, with GRPO's area and the effective share of the credit", markdown_table(header, rows)),
            record_line(results["record"]),
        ]
    )


def _said_of_long_warm_ups(results: Mapping[str, Any]) -> str:
    """A sentence on the points whose model has learnt the language for longer, since it would not know it otherwise."""
    usual = SETTINGS[BASE].warm_up.steps
    steps = {point: SETTINGS[point.variant].warm_up.steps for point in measured(results)}
    longer = [f"{point.axis} {point.value}: {count} updates" for point, count in steps.items() if count > usual]
    why = f"in place of {usual}, after which the model would not know where a completion ends"
    return f" Warm-up, {'; '.join(longer)} {why}." if longer else ""


def _said_of_mute_points(results: Mapping[str, Any]) -> str:
    """A sentence on the points that tell nothing of a rule."""
    mute = [
        f"{point.axis} {point.value}"
        for point in measured(results)
        if mean(results, point.variant, GRPO, "area").value < _LEARNT
    ]
    return f" GRPO itself learns nothing at {', '.join(mute)}, which therefore tells nothing of a rule." if mute else ""


def _percent(results: Mapping[str, Any], point: Point, method: str, figure: str) -> str:
    return f"{100 * mean(results, point.variant, point.arm(method), figure).value:.1f}"


def _listed(keys: list[tuple[Point, str]]) -> str:
    named = dict.fromkeys(f"{method} at {point.axis} {point.value}" for point, method in keys)
    return f" in {len(keys)} ({'; '.join(named)})" if keys else " in none"
