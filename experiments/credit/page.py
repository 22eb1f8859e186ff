"""What the experiment says, as Markdown and verdicts, from its results."""

from collections.abc import Callable, Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.credit import comparison
from experiments.credit import verdicts as claims
from experiments.credit.comparison import points
from experiments.credit.figures import late_share, main_variant
from experiments.report import folded, markdown_table, record_line, shown

verdicts = claims.verdicts


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it."""
    sides = comparison.outcomes(results)
    total, better, worse = sum(map(len, sides.values())), len(sides["better"]), len(sides["worse"])
    return (
        f"Choosing among rules that weigh GRPO's advantage? Of {total} comparisons {better or 'none'} "
        f"{'is' if better < 2 else 'are'} better than GRPO beyond simultaneous intervals and {worse} worse. "
        + (
            "Without a reason of your own stay with `credit_rule=even`: a small tau is a risk, the paper's changes "
            "little."
            if worse > better
            else "Try those that are better first."
        )
    )


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    main = main_variant(results)
    parts = [
        "## Which credit learns best: rules and ceilings on `forks`",
        _summary(results),
        "### Headroom: what an oracle gains over GRPO",
        "An oracle knows which picks decided the outcome. Where the best one is not above GRPO, rules cannot be "
        "compared. Area under the learning curve (the mean reward over all rollouts); the interval is widened for "
        "the number of oracles, of which the best is shown. Weights only: the oracle knows which picks mattered, not "
        "whether they were right, and multiplies the advantage by w >= 0, as the paper's rule does.",
        claims.weights_only(results, list(results["rules"])),
        _headroom_table(results),
        "### The paper's rule at its temperatures",
        "Area less GRPO's, points, simultaneous intervals over the table (Bonferroni); below it, "
        "the variance of the gradient norm over the updates of a training as a multiple of GRPO's (geometric mean, "
        "95 % each).",
        _temperature_table(results, claims.areas(results, results["rules"]), points),
        _temperature_table(results, claims.variances(results), lambda estimate: shown(estimate, digits=2)),
        "### Where the signals point",
        "AUROC for the picks that caused the outcome, of d, h and d * h on the same completions, those of GRPO's "
        "policies; .5 is chance. The first measurement, where policy and reference are equal, is left out. "
        "Differences: simultaneous intervals.",
        _signals_table(results),
        "### The entropy gate at equal shares",
        "tau is solved for each batch so that both have the same effective share; at one tau the gated weights are the "
        "more even ones. Gated less ungated, points; credit of the habit: of the second half of the training, and per "
        "token (its share of the credit over its share of the tokens). Intervals widened for the shares of a variant.",
        _gate_table(results),
        "### Mode collapse",
        "Share of the entropy of the style words that is gone at the end of the training; what the paper's rule at tau "
        "= .5 loses more; right answers among 8 samples, points more than GRPO. A variant can judge where an effect of "
        "68 % would lie outside of the interval. Intervals of differences are simultaneous over the variants.",
        _collapse_table(results),
        f"### All rules on `{main}`",
        "Differences from GRPO on the same seeds, 95 % each (Student's t over seeds, pairs). AUROC: of the weights, "
        "for the picks that caused the outcome. Shares of the credit are of the second half of the training.",
        folded("how well each rule learns", _rules_table(results, main)),
        folded("what its weights and gradients are like", _weights_table(results, main)),
        "### The same rules elsewhere",
        folded("difference of the area under the curve from GRPO's, points", _variants_table(results)),
        "### How to read this",
        "Weights multiply gradients, and the gradient of a token whose probability is near 1 is near 0 whatever its "
        "weight: with even weights almost no gradient comes from low-entropy tokens in GRPO either. A weight can only "
        "shift credit among the uncertain tokens. The oracles show what else there is to gain: with weights alone "
        "(which picks mattered), or with signs (whether each was right), within groups of mixed rewards or in all. "
        "All rules share one learning rate, chosen on GRPO alone; Adam normalises a rule's scale, not its noise. "
        "Larger gradients are clipped to a norm of 1.",
        *(
            f"![{title}](figures/{name}.png)"
            for name, title in (
                ("credit-curves", "learning curves"),
                ("credit-differences", "differences from GRPO"),
                ("credit-drift", "drift by role"),
                ("credit-shares", "credit by role"),
            )
        ),
        record_line(results["record"]),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(results: Mapping[str, Any]) -> str:
    sides, singly = comparison.outcomes(results), comparison.outcomes(results, together=False)
    total = sum(map(len, sides.values()))
    judging = comparison.judging(results)
    if sides["better"]:
        first = f"**{len(sides['better'])} of {total} comparisons beat GRPO**."
    else:
        first = f"**No rule beats GRPO beyond its interval** in any of {total} comparisons."
    worse = f"{len(sides['worse'])} are worse." if sides["worse"] else "None is worse."
    told = {(variant, rule): side for side in ("better", "worse") for variant, rule, _ in sides[side]}
    rows = [
        [f"`{variant}`", rule, side, points(one), told.get((variant, rule), "-")]
        for side in ("better", "worse")
        for variant, rule, one in singly[side]
    ]
    return "\n\n".join(
        [
            f"{first} {worse} {len(sides['neither'])} cannot be told apart from GRPO. These intervals of the area "
            f"under the learning curve, in points, are simultaneous (Bonferroni over all {total}). Ceilings are not "
            f"counted. {len(judging)} of {len(results['rules'])} variants have headroom"
            + (f": {', '.join(f'`{variant}`' for variant in judging)}." if judging else "."),
            f"One by one, at 95 % each, where about {0.025 * total:.1f} of {total} would lie beyond 0 on "
            f"either side by chance alone, {len(singly['better'])} are better and {len(singly['worse'])} worse:",
            markdown_table(["variant", "rule", "at 95 % each", "points", "all intervals together"], rows)
            if rows
            else "",
        ]
    )


def _temperature_table(
    results: Mapping[str, Any], estimates: Mapping[tuple[str, str], Estimate], form: Callable[[Estimate], str]
) -> str:
    rows = [
        [
            f"`{variant}`",
            *(form(estimates[variant, rule]) if (variant, rule) in estimates else "-" for rule in claims.PAPERS),
        ]
        for variant in results["rules"]
    ]
    return markdown_table(["variant", *claims.PAPERS], rows)


def _signals_table(results: Mapping[str, Any]) -> str:
    aurocs, gains = claims.signals(results), claims.signal_differences(results)
    rows = [
        [
            f"`{variant}`",
            *(shown(aurocs[variant, name], digits=2) for name in claims.SIGNALS),
            *(shown(gains[variant, name], digits=2, signed=True) for name in claims.SIGNALS[1:]),
        ]
        for variant in results["rules"]
    ]
    return markdown_table(["variant", "d * h", "d", "h", "d * h less d", "d * h less h"], rows)


def _gate_table(results: Mapping[str, Any]) -> str:
    rows = []
    for variant in results["rules"]:
        areas = claims.gate_at_equal_shares(results, variant, "area")
        has_habit = "habit" in results["rules"][variant]["grpo"]["credit"]
        credit, per_token = (
            claims.gate_at_equal_shares(results, variant, figure) if has_habit else {}
            for figure in ("credit_habit", "credit_per_token_habit")
        )
        rows += [
            [
                f"`{variant}`",
                f"{share} %",
                points(area),
                points(credit[share]) if has_habit else "-",
                shown(per_token[share], digits=2, signed=True) if has_habit else "-",
            ]
            for share, area in areas.items()
        ]
    header = ["variant", "effective share", "area", "credit of the habit", "the same, per token"]
    return markdown_table(header, rows)


def _collapse_table(results: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{variant}`",
            f"{lost.value:.1%}",
            points(more),
            points(passed),
            "yes" if judges else "no",
        ]
        for variant, (lost, more, passed, judges) in claims.collapse(results).items()
    ]
    return markdown_table(["variant", "GRPO loses", "tau = .5 loses more", "pass@8", "can judge?"], rows)


def _headroom_table(results: Mapping[str, Any]) -> str:
    rows = []
    for variant, about in results["variants"].items():
        best, unsigned = (comparison.headroom(results, variant, signed=signed) for signed in (True, False))
        rows.append(
            [
                f"`{variant}`",
                about["why"],
                len(comparison.per_seed(results, variant, "grpo", "area")),
                shown(comparison.mean(results, variant, "grpo", "area")),
                shown(comparison.mean(results, variant, "grpo", "accuracy")),
                *(f"{ceiling[0]}: {points(ceiling[1])}" if ceiling else "not run" for ceiling in (best, unsigned)),
                "yes" if comparison.judges(results, variant) else "no",
            ]
        )
    header = [
        "variant",
        "what",
        "seeds",
        "GRPO, area",
        "GRPO, final accuracy",
        "best ceiling, points",
        "best of those with weights only",
        "judges rules?",
    ]
    return markdown_table(header, rows)


def _ordered(results: Mapping[str, Any], variant: str) -> list[tuple[str, str]]:
    """Each rule of a variant and how a table shows it: GRPO, ceilings in italics, the others."""
    rules = ["grpo", *(name for kind in (True, False) for name in comparison.names(results, variant, ceilings=kind))]
    return [(rule, f"*{rule}*" if results["rules"][variant][rule]["ceiling"] else rule) for rule in rules]


def _rules_table(results: Mapping[str, Any], variant: str) -> str:
    rows = []
    for rule, name in _ordered(results, variant):
        gains = [comparison.difference(results, variant, rule, figure) for figure in ("area", "accuracy")]
        final = [comparison.mean(results, variant, rule, figure).value for figure in ("accuracy", "greedy", "pass@8")]
        rows.append([name, *("" if rule == "grpo" else points(gain) for gain in gains), *(f"{x:.2f}" for x in final)])
    header = ["rule (*ceiling*)", "area, points", "final accuracy, points", "at T = 1", "greedy", "pass@8"]
    return markdown_table(header, rows)


def _weights_table(results: Mapping[str, Any], variant: str) -> str:
    rows = []
    for rule, name in _ordered(results, variant):
        value = lambda figure, rule=rule: comparison.mean(results, variant, rule, figure).value  # noqa: E731
        rows.append(
            [
                name,
                f"{value('auroc'):.2f}",
                *(f"{late_share(results, variant, rule, role):.2f}" for role in ("pivot", "decoy", "copy")),
                f"{value('effective_share'):.2f}",
                f"{value('norm_mean'):.2f}",
                f"{value('norm_variance'):.3f}",
                f"{value('norm_max'):.1f}",
                f"{value('entropy'):.3f}",
            ]
        )
    header = [
        *("rule (*ceiling*)", "AUROC", "credit: pivot", "decoy", "copy", "effective share"),
        *("gradient norm: mean", "variance", "max", "entropy, nats"),
    ]
    return markdown_table(header, rows)


def _variants_table(results: Mapping[str, Any]) -> str:
    variants = list(results["rules"])
    shared = [rule for rule in results["rules"][main_variant(results)] if rule != "grpo"]
    rows = []
    for rule in [*shared, *(r for v in variants for r in results["rules"][v] if r not in (*shared, "grpo"))]:
        present = [variant for variant in variants if rule in results["rules"][variant]]
        if len(present) > 1 or rule not in shared:
            cells = {variant: points(comparison.difference(results, variant, rule, "area")) for variant in present}
            rows.append([rule, *(cells.get(variant, "") for variant in variants)])
    return markdown_table(
        ["rule", *(f"`{variant}`" for variant in variants)], list(map(list, dict.fromkeys(map(tuple, rows))))
    )
