"""What the experiment says, as Markdown and verdicts, generated from its committed results."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dgpo.evaluation.intervals import Estimate
from experiments._report import Verdict, interval, markdown_table, record_line, shown
from experiments.credit import comparison
from experiments.credit.figures import late_share, main_variant

_DEFAULT, _SHARP, _UNGATED, _ENTROPY = "dgpo tau=.5", "dgpo tau=.1", "deviation only tau=.1", "entropy only tau=.1"


def section(results: Mapping[str, Any] | None = None) -> str:
    """Return the chapter of docs/results.md, from the committed results unless others are given."""
    results = comparison.load() if results is None else results
    main = main_variant(results)
    parts = [
        "## Which credit learns best: rules and ceilings on `forks`",
        _summary(results),
        "### Headroom: what an oracle gains over GRPO",
        "An oracle knows which picks decided the outcome. Where the best one is not above GRPO, no rule can be judged. "
        "Area under the learning curve (the mean reward over all rollouts); the interval is widened for the number of "
        "oracles, of which the best is shown. Weights only: the oracle knows which picks mattered, not whether they "
        "were right, and multiplies the advantage by w >= 0, as the paper's rule does.",
        _headroom_table(results),
        f"### All rules on `{main}`",
        "Differences from GRPO on the same seeds, 95 % each (Student's t over seeds, pairs). AUROC: of the weights, "
        "for the picks that caused the outcome. Shares of the credit are of the second half of the training.",
        _rules_table(results, main),
        "### The same rules elsewhere",
        "Difference of the area under the curve from GRPO's, points.",
        _variants_table(results),
        "### How to read this",
        "Weights multiply gradients, and the gradient of a token whose probability is near 1 is near 0 whatever its "
        "weight: with even weights GRPO already spends next to nothing on tokens that are sure, and moves the "
        "uncertain ones. A weight can only shift credit among those. The oracles tell what else there is to gain: with "
        "weights alone (which picks mattered), or with signs (whether each was right), within groups of mixed "
        "rewards or in all. "
        "All rules share one learning rate, chosen on GRPO alone; Adam takes out a rule's scale but not its noise. "
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


def verdicts(results: Mapping[str, Any] | None = None) -> list[Verdict]:
    """Return what the experiment says about each claim of the paper that it can be asked about."""
    results = comparison.load() if results is None else results
    return [
        _learns_better(results),
        _finds_causes(results),
        _gate(results),
        _variance(results),
        _collapse(results),
    ]


def _points(estimate: Estimate) -> str:
    scaled = (None if end is None else 100 * end for end in (estimate.value, estimate.low, estimate.high))
    return shown(Estimate(*scaled), digits=1, signed=True)  # type: ignore[arg-type]


def _judging(results: Mapping[str, Any]) -> list[str]:
    """Variants with headroom."""
    return [variant for variant in results["rules"] if comparison.judges(results, variant)]


def _summary(results: Mapping[str, Any]) -> str:
    found, singly = comparison.outcomes(results), comparison.outcomes(results, together=False)
    total = sum(map(len, found.values()))
    judging = _judging(results)
    if found["better"]:
        first = f"**{len(found['better'])} of {total} comparisons beat GRPO**: {_listed(found['better'])}."
    else:
        first = f"**No rule beats GRPO beyond its interval** in any of {total} comparisons."
    worse = f"{len(found['worse'])} are worse: {_listed(found['worse'])}." if found["worse"] else "None is worse."
    each = "; ".join(f"{side}: {_listed(singly[side]) or 'none'}" for side in ("better", "worse"))
    return "\n\n".join(
        [
            f"{first} {worse} {len(found['neither'])} cannot be told apart from GRPO. These intervals of the area "
            f"under the learning curve, in points, hold together (Bonferroni over all {total}). Ceilings are not "
            f"counted. {len(judging)} of {len(results['rules'])} variants have headroom"
            + (f": {', '.join(f'`{variant}`' for variant in judging)}." if judging else "."),
            f"Looked at one by one, at 95 % each, where about {0.025 * total:.1f} of {total} would lie beyond 0 on "
            f"either side by chance alone: {each}.",
        ]
    )


def _listed(rows: Sequence[tuple[str, str, Estimate]]) -> str:
    by_variant: dict[str, list[str]] = {}
    for variant, rule, estimate in rows:
        by_variant.setdefault(variant, []).append(f"{rule} {_points(estimate)}")
    return "; ".join(f"in `{variant}` {', '.join(named)}" for variant, named in by_variant.items())


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
                *(f"{found[0]}: {_points(found[1])}" if found else "not run" for found in (best, unsigned)),
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


def _rules_table(results: Mapping[str, Any], variant: str) -> str:
    rows = []
    rules = ["grpo", *(name for kind in (True, False) for name in comparison.names(results, variant, ceilings=kind))]
    for rule in rules:
        value = lambda figure, rule=rule: comparison.mean(results, variant, rule, figure).value  # noqa: E731
        gain = lambda figure, rule=rule: _points(comparison.difference(results, variant, rule, figure))  # noqa: E731
        rows.append(
            [
                f"*{rule}*" if results["rules"][variant][rule]["ceiling"] else rule,
                len(comparison.per_seed(results, variant, rule, "area")),
                "" if rule == "grpo" else gain("area"),
                "" if rule == "grpo" else gain("accuracy"),
                f"{value('accuracy'):.2f} / {value('greedy'):.2f} / {value('pass@8'):.2f}",
                f"{value('auroc'):.2f}",
                " / ".join(f"{late_share(results, variant, rule, role):.2f}" for role in ("pivot", "decoy", "copy")),
                f"{value('effective_share'):.2f}",
                f"{value('norm_mean'):.2f} / {value('norm_variance'):.3f} / {value('norm_max'):.1f}",
                f"{value('entropy'):.3f}",
            ]
        )
    header = [
        "rule (*ceiling*)",
        "seeds",
        "area, points",
        "final accuracy, points",
        "final: T = 1 / greedy / pass@8",
        "AUROC",
        "credit: pivot / decoy / copy",
        "effective share",
        "gradient norm: mean / variance / max",
        "entropy, nats",
    ]
    return markdown_table(header, rows)


def _variants_table(results: Mapping[str, Any]) -> str:
    variants = list(results["rules"])
    shared = [rule for rule in results["rules"][main_variant(results)] if rule != "grpo"]
    rows = []
    for rule in [*shared, *(r for v in variants for r in results["rules"][v] if r not in (*shared, "grpo"))]:
        present = [variant for variant in variants if rule in results["rules"][variant]]
        if len(present) > 1 or rule not in shared:
            cells = {variant: _points(comparison.difference(results, variant, rule, "area")) for variant in present}
            rows.append([rule, *(cells.get(variant, "") for variant in variants)])
    return markdown_table(
        ["rule", *(f"`{variant}`" for variant in variants)], list(map(list, dict.fromkeys(map(tuple, rows))))
    )


def _learns_better(results: Mapping[str, Any]) -> Verdict:
    claim = "Redistributing GRPO's advantage by d * h ** kappa learns better than GRPO"
    judging = _judging(results)
    if not judging:
        return Verdict(claim, "not testable at this size", "No variant of the task has headroom above GRPO.")
    rules = ("dgpo tau=1", _DEFAULT, _SHARP, "dgpo tau=.05")
    pairs = [(variant, rule) for variant in judging for rule in rules if rule in results["rules"][variant]]
    found = {pair: comparison.difference(results, *pair, "area", comparisons=len(pairs)) for pair in pairs}
    better = [pair for pair, estimate in found.items() if estimate.low is not None and estimate.low > 0]
    worse = [pair for pair, estimate in found.items() if estimate.high is not None and estimate.high < 0]
    words = "; ".join(f"{rule} in {variant} {_points(estimate)}" for (variant, rule), estimate in found.items())
    even = [comparison.mean(results, variant, _DEFAULT, "effective_share").value for variant in judging]
    gains = [comparison.difference(results, variant, _DEFAULT, "area").value for variant in judging]
    why = (
        f"With the paper's tau = .5 the credit stays even (effective share {min(even):.2f} to {max(even):.2f}) and the "
        f"difference from GRPO is {100 * min(gains):+.1f} to {100 * max(gains):+.1f} points. "
        f"In the {len(judging)} variants with headroom, area under the curve less GRPO's, points, intervals widened "
        f"for {len(pairs)} comparisons: {words}. Better: {len(better)}, worse: {len(worse)}."
    )
    return Verdict(claim, "supported" if better and not worse else "not supported", why, _flat(found))


def _weights_only(results: Mapping[str, Any], variants: list[str]) -> str:
    """What an oracle gains that may only weigh the advantages, in a sentence."""
    found = {variant: comparison.headroom(results, variant, signed=False) for variant in variants}
    words = ", ".join(f"{variant} {_points(one[1])}" for variant, one in found.items() if one)
    above = [variant for variant, one in found.items() if one and one[2]]
    return (
        f"An oracle that knows the causal picks but, like these rules, only weighs the advantage gains {words} points, "
        + (f"beyond its interval in {', '.join(above)}." if above else "nowhere beyond its interval.")
    )


def _finds_causes(results: Mapping[str, Any]) -> Verdict:
    claim = "The score d * h ** kappa points at the tokens that decide the outcome"
    main = main_variant(results)
    ours = comparison.mean(results, main, _SHARP, "auroc")
    entropy = comparison.mean(results, main, _ENTROPY, "auroc")
    gain = comparison.difference(results, main, _SHARP, "auroc", baseline=_ENTROPY)
    credit = results["rules"][main][_SHARP]["credit"]
    tokens = sum(credit["pivot"]["tokens"]) / len(credit["pivot"]["tokens"])
    why = (
        f"In {main}, AUROC of the weights for the picks that caused the outcome: {shown(ours, digits=2)} with d * h "
        f"(tau = .1), {shown(entropy, digits=2)} with the entropy alone, difference "
        f"{shown(gain, digits=2, signed=True)}. "
        f"The pivots, {tokens:.0%} of the tokens, get {late_share(results, main, _SHARP, 'pivot'):.0%} of the credit "
        f"in the second half of the training, the decoys {late_share(results, main, _SHARP, 'decoy'):.0%}."
    )
    good = ours.low is not None and ours.low > 0.5 and gain.low is not None and gain.low > 0
    return Verdict(claim, "supported" if good else "not supported", why, _flat({"d * h": ours, "entropy": entropy}))


def _gate(results: Mapping[str, Any]) -> Verdict:
    claim = "The entropy gate keeps credit away from confident drift that never pays"
    if "habit" not in results["rules"]:
        return Verdict(claim, "not testable at this size", "The variant with confident drift was not run.")
    gated, ungated = (late_share(results, "habit", rule, "habit") for rule in (_SHARP, _UNGATED))
    gain = comparison.difference(results, "habit", _SHARP, "area", baseline=_UNGATED)
    against = comparison.difference(results, "habit", _SHARP, "area")
    room = comparison.judges(results, "habit")
    tokens = results["rules"]["habit"][_SHARP]["credit"]["habit"]["tokens"]
    why = (
        f"Tokens of which policy and reference are sure, but differently, are {sum(tokens) / len(tokens):.0%} of a "
        f"completion; late in the training they get {gated:.0%} of the credit with the gate and {ungated:.0%} without. "
        f"With the gate the area under the curve is {_points(gain)} points from that without, and {_points(against)} "
        f"points from GRPO's." + ("" if room else " The variant has no headroom above GRPO.")
    )
    good = gain.low is not None and gain.low > 0
    return Verdict(claim, "supported" if good else "not supported", why, _flat({"gated - ungated": gain}))


def _variance(results: Mapping[str, Any]) -> Verdict:
    claim = "The variance of the gradient norm is 41 % smaller than GRPO's"
    found = {}
    for variant, rules in results["rules"].items():
        for rule in (_DEFAULT, _SHARP):
            if rule in rules:
                found[variant, rule] = _ratio(results, variant, rule, "norm_variance")
    smaller = [pair for pair, e in found.items() if pair[1] == _DEFAULT and e.high is not None and e.high < 1]
    every = [pair for pair in found if pair[1] == _DEFAULT]
    words = "; ".join(f"{rule} in {variant} {shown(e, digits=2)}" for (variant, rule), e in found.items())
    why = f"Variance of the norm before clipping over the updates of a training, as a multiple of GRPO's: {words}."
    return Verdict(claim, "supported" if every and smaller == every else "not supported", why, _flat(found))


def _collapse(results: Mapping[str, Any]) -> Verdict:
    claim = "Less mode collapse than GRPO (second-hand: 68 % less)"
    pairs = [
        (variant, figure)
        for variant, rules in results["rules"].items()
        if _DEFAULT in rules
        for figure in ("pass@8", "decoy_entropy")
    ]
    found = {
        (variant, figure): comparison.difference(results, variant, _DEFAULT, figure, comparisons=len(pairs))
        for variant, figure in pairs
    }
    better = {variant for (variant, figure), e in found.items() if e.low is not None and e.low > 0}
    variants = {variant for variant, _ in found}
    words = "; ".join(
        f"{figure.replace('_', ' ')} in {variant} {shown(e, signed=True)}" for (variant, figure), e in found.items()
    )
    why = (
        "What a policy can lose here: right answers among 8 samples, and the even choice of style words (entropy of at "
        f"most log 4 = 1.386 nats). Differences of {_DEFAULT} from GRPO at the end, intervals widened for "
        f"{len(pairs)} comparisons: {words}."
    )
    return Verdict(claim, "supported" if better and better == variants else "not supported", why, _flat(found))


def _ratio(results: Mapping[str, Any], variant: str, rule: str, figure: str) -> Estimate:
    """A figure as a multiple of GRPO's: geometric mean over seeds, with the interval of its logarithm."""
    ours, base = (comparison.per_seed(results, variant, name, figure) for name in (rule, comparison.BASELINE))
    shared = [seed for seed in ours if ours[seed] > 0 and base.get(seed, 0) > 0]
    if not shared:
        return Estimate(math.nan, None, None)
    logs = interval([math.log(ours[seed] / base[seed]) for seed in shared])
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Estimate(math.exp(logs.value), low, high)


def _flat(found: Mapping[Any, Estimate]) -> dict[str, Any]:
    return {
        " / ".join(key) if isinstance(key, tuple) else str(key): [e.value, e.low, e.high] for key, e in found.items()
    }
