"""What the experiment says about each claim, from its committed results."""

from collections.abc import Iterable, Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.credit import comparison
from experiments.credit.comparison import points
from experiments.credit.figures import late_share, main_variant
from experiments.report import Verdict, above, below

PAPERS = ("dgpo tau=1", "dgpo tau=.5", "dgpo tau=.1", "dgpo tau=.05")
DEFAULT, SHARP, UNGATED = "dgpo tau=.5", "dgpo tau=.1", "deviation only tau=.1"
SIGNALS = ("d*h", "d", "h")
SHARES = (97, 80, 50)
LESS_VARIANCE, LESS_COLLAPSE = 0.41, 0.68
"""Second-hand figures of the paper."""


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the experiment says about each claim of the paper that it can be asked about.

    Args:
        results: What the command has written.

    Returns:
        Verdicts.
    """
    return [
        _learns_better(results),
        _finds_causes(results),
        _gate(results),
        _variance(results),
        _collapse(results),
    ]


def areas(results: Mapping[str, Any], variants: Iterable[str]) -> dict[tuple[str, str], Estimate]:
    """Return the paper's rule's area less GRPO's per variant and temperature, simultaneous intervals."""
    pairs = [(variant, rule) for variant in variants for rule in PAPERS if rule in results["rules"][variant]]
    return {pair: comparison.difference(results, *pair, "area", comparisons=len(pairs)) for pair in pairs}


def _learns_better(results: Mapping[str, Any]) -> Verdict:
    claim = "Redistributing GRPO's advantage by d * h ** kappa learns better than GRPO"
    judging = comparison.judging(results)
    if not judging:
        return Verdict(claim, "not testable at this size", "No variant of the task has headroom above GRPO.")
    differences = areas(results, judging)
    better = [f"{rule} in {variant} {points(e)}" for (variant, rule), e in differences.items() if above(e, 0)]
    worse = [f"{rule} in {variant} {points(e)}" for (variant, rule), e in differences.items() if below(e, 0)]
    even = [comparison.mean(results, variant, DEFAULT, "effective_share").value for variant in judging]
    gains = [differences[variant, DEFAULT].value for variant in judging]
    why = (
        f"{weights_only(results, judging)} "
        f"With the paper's tau = .5 the credit stays even (effective share {min(even):.2f} to {max(even):.2f}) and the "
        f"difference from GRPO is {100 * min(gains):+.1f} to {100 * max(gains):+.1f} points of the area under the "
        f"curve. At tau = 1, .5, .1 and .05 in the {len(judging)} variants in which an oracle with signs is above "
        f"GRPO, intervals widened for {len(differences)} comparisons: Better: {len(better)}, worse: {len(worse)}"
        + (f" ({'; '.join([*better, *worse])})" if better or worse else "")
        + ". The chapter has all of them."
    )
    short = (
        f"area at tau = .5: {100 * min(gains):+.1f} to {100 * max(gains):+.1f} points; of {len(differences)} "
        f"comparisons {len(better)} better, {len(worse)} worse"
    )
    return Verdict(claim, "supported" if better and not worse else "not supported", why, flat(differences), short=short)


def weights_only(results: Mapping[str, Any], variants: list[str]) -> str:
    """Return what an oracle gains that may only weigh the advantages, in a sentence."""
    counts = []
    for together in (len(variants), 1):
        ceilings = {v: comparison.headroom(results, v, signed=False, variants=together) for v in variants}
        ran = {variant: one for variant, one in ceilings.items() if one}
        counts.append(sum(one[2] for one in ran.values()))
    words = ", ".join(f"{variant} {points(one[1])}" for variant, one in ran.items())
    return (
        "The best oracle that knows the decisive picks but, like this rule, only multiplies the group's advantage by "
        f"w >= 0 is above GRPO in {counts[0]} of {len(ran)} variants by simultaneous intervals (Bonferroni), in "
        f"{counts[1]} by intervals of 95 % each (points: {words})."
    )


def signals(results: Mapping[str, Any]) -> dict[tuple[str, str], Estimate]:
    """Return the AUROC of each signal for the decisive picks, per variant, on the completions of GRPO's policies."""
    return {
        (variant, name): comparison.mean(results, variant, comparison.BASELINE, f"auroc_{name}")
        for variant in results["rules"]
        for name in SIGNALS
    }


def signal_differences(results: Mapping[str, Any]) -> dict[tuple[str, str], Estimate]:
    """Return the AUROC of d * h less that of d, and of h, on the same completions, simultaneous intervals."""
    pairs = [(variant, name) for variant in results["rules"] for name in SIGNALS[1:]]
    return {
        (variant, name): comparison.difference_of_figures(
            results, variant, comparison.BASELINE, "auroc_d*h", f"auroc_{name}", comparisons=len(pairs)
        )
        for variant, name in pairs
    }


def _finds_causes(results: Mapping[str, Any]) -> Verdict:
    claim = "The score d * h ** kappa points at the tokens that decide the outcome, better than d or h alone"
    main, variants = main_variant(results), list(results["rules"])
    aurocs, gain = signals(results), signal_differences(results)
    ours = [aurocs[variant, "d*h"] for variant in variants]
    counts = {
        name: (sum(above(gain[v, name], 0) for v in variants), sum(below(gain[v, name], 0) for v in variants))
        for name in SIGNALS[1:]
    }
    credit = results["rules"][main][SHARP]["credit"]
    tokens = sum(credit["pivot"]["tokens"]) / len(credit["pivot"]["tokens"])
    values = [one.value for one in ours]
    why = (
        f"AUROC for the picks that caused the outcome, on the same completions of GRPO's policies in {len(variants)} "
        f"variants: {min(values):.2f} to {max(values):.2f} with d * h (.5 is chance). It is above that of the entropy "
        f"alone in {counts['h'][0]} variants and below it in {counts['h'][1]}, above that of d alone in "
        f"{counts['d'][0]} and below it in {counts['d'][1]} (intervals widened for {len(gain)} comparisons, see "
        f"the chapter). Little of the credit goes there: in {main}, the picks, {tokens:.0%} of the "
        f"tokens, get {late_share(results, main, DEFAULT, 'pivot'):.0%} of it at tau = .5 and "
        f"{late_share(results, main, SHARP, 'pivot'):.0%} at tau = .1 in the second half of the training, the style "
        f"words that decide nothing {late_share(results, main, SHARP, 'decoy'):.0%}."
    )
    good = all(above(one, 0.5) for one in ours) and all(counts[name] == (len(variants), 0) for name in counts)
    short = f"of {len(variants)} variants, better than h alone in {counts['h'][0]}, than d alone in {counts['d'][0]}"
    return Verdict(claim, "supported" if good else "not supported", why, flat(aurocs), short=short)


def gate_at_equal_shares(results: Mapping[str, Any], variant: str, figure: str) -> dict[int, Estimate]:
    """Return a figure of d * h less that of d at each effective share of both, with simultaneous intervals."""
    rules = results["rules"].get(variant, {})
    ran = [share for share in SHARES if {f"share {share} %", f"ungated share {share} %"} <= rules.keys()]
    return {
        share: comparison.difference(
            results, variant, f"share {share} %", figure, baseline=f"ungated share {share} %", comparisons=len(ran)
        )
        for share in ran
    }


def _gate(results: Mapping[str, Any]) -> Verdict:
    claim = "The entropy gate keeps credit off low-entropy drift that never changes the reward"
    area = gate_at_equal_shares(results, "habit", "area")
    if not area:
        return Verdict(claim, "not testable at this size", "The variant with low-entropy drift was not run.")
    credit = gate_at_equal_shares(results, "habit", "credit_habit")
    rules = results["rules"]["habit"]
    tokens = rules["grpo"]["credit"]["habit"]["tokens"]
    each = "; ".join(
        f"at {share} % area {points(area[share])}, credit of the habit {points(credit[share])} "
        f"({late_share(results, 'habit', f'share {share} %', 'habit'):.0%} with the gate, "
        f"{late_share(results, 'habit', f'ungated share {share} %', 'habit'):.0%} without)"
        for share in area
    )
    elsewhere = [v for v in results["rules"] if v != "habit" and gate_at_equal_shares(results, v, "area")]
    others = "".join(
        f" In {variant}, area: "
        + ", ".join(f"{points(e)} at {s} %" for s, e in gate_at_equal_shares(results, variant, "area").items())
        + "."
        for variant in elsewhere
    )
    why = (
        "d * h is smaller than d, so that at one tau the gated weights are merely the more even ones"
        f"{_at_one_tau(results)}. With tau solved for equal effective shares, gated less ungated, points, intervals "
        f"widened for {len(area)} comparisons: {each}. The habit, tokens on which policy and reference are confident "
        f"and disagree, is {sum(tokens) / len(tokens):.0%} of a completion; credit is of the second half of the "
        f"training.{others}"
    )
    learns = any(above(e, 0) for e in area.values()) and not any(below(e, 0) for e in area.values())
    spares = all(below(e, 0) for e in credit.values())
    figures = {f"area at {s} %": e for s, e in area.items()} | {f"credit at {s} %": e for s, e in credit.items()}
    short = "credit of the drift, with less without: " + ", ".join(f"{100 * credit[s].value:+.1f}" for s in credit)
    short += f" points at shares of {', '.join(map(str, credit))} %"
    word = "supported" if learns and spares else "not supported"
    return Verdict(claim, word, why, flat(figures), short=short)  # type: ignore[arg-type]


def _at_one_tau(results: Mapping[str, Any]) -> str:
    if not {SHARP, UNGATED} <= results["rules"]["habit"].keys():
        return ""
    gain = comparison.difference(results, "habit", SHARP, "area", baseline=UNGATED)
    shares = [comparison.mean(results, "habit", rule, "effective_share").value for rule in (SHARP, UNGATED)]
    return (
        f" (in habit at tau = .1 an effective share of {shares[0]:.2f} against {shares[1]:.2f}, and an area of "
        f"{points(gain)} points more)"
    )


def variances(results: Mapping[str, Any]) -> dict[tuple[str, str], Estimate]:
    """Return the variance of the gradient norm as a multiple of GRPO's, per variant and temperature."""
    return {
        (variant, rule): comparison.ratio(results, variant, rule, "norm_variance")
        for variant, rules in results["rules"].items()
        for rule in PAPERS
        if rule in rules
    }


def _variance(results: Mapping[str, Any]) -> Verdict:
    claim = "The variance of the gradient norm is 41 % smaller than GRPO's"
    ratios = variances(results)
    default = [e for (_, rule), e in ratios.items() if rule == DEFAULT]
    smaller = [e for e in default if below(e, 1)]
    ruled_out = sum(above(e, 1 - LESS_VARIANCE) for e in default)
    sharp = [e.value for (_, rule), e in ratios.items() if rule == SHARP]
    why = (
        "Variance of the norm before clipping over the updates of a training, as a multiple of GRPO's: at tau = .5 "
        f"{min(e.value for e in default):.2f} to {max(e.value for e in default):.2f} in {len(default)} variants, "
        f"below 1 beyond its interval in {len(smaller)}, above it in {sum(above(e, 1) for e in default)}; 41 % less is "
        f"outside of the interval in {ruled_out}. At tau = .1 {min(sharp):.1f} to {max(sharp):.1f}. Intervals: see the "
        "chapter."
    )
    word = "supported" if default and smaller == default else "not supported"
    short = f"{min(e.value for e in default):.2f} to {max(e.value for e in default):.2f} times GRPO's at tau = .5"
    return Verdict(claim, word, why, flat(ratios), short=short)  # type: ignore[arg-type]


def collapse(results: Mapping[str, Any]) -> dict[str, tuple[Estimate, Estimate, Estimate, bool]]:
    """Return what GRPO loses of the even choice of style words, what DGPO loses more, and who can judge.

    Args:
        results: The committed results.

    Returns:
        Per variant: share of the decoys' entropy that is gone at the end of GRPO; DGPO's less GRPO's; pass@8 less
        GRPO's; whether a collapse that is 68 % smaller would lie outside of the second's interval.
    """
    variants = [variant for variant, rules in results["rules"].items() if DEFAULT in rules]
    changes = {}
    for variant in variants:
        lost = comparison.mean(results, variant, comparison.BASELINE, "decoy_entropy_lost")
        more, passed = (
            comparison.difference(results, variant, DEFAULT, figure, comparisons=len(variants))
            for figure in ("decoy_entropy_lost", "pass@8")
        )
        half = (more.high - more.low) / 2 if more.low is not None and more.high is not None else float("inf")
        changes[variant] = lost, more, passed, above(lost, 0) and half < LESS_COLLAPSE * lost.value
    return changes


def _collapse(results: Mapping[str, Any]) -> Verdict:
    claim = "Less mode collapse than GRPO (second-hand: 68 % less)"
    changes = collapse(results)
    judging = {variant: one for variant, one in changes.items() if one[3]}
    less = [variant for variant, one in judging.items() if below(one[1], 0)]
    losses = [one[0].value for one in changes.values()]
    ruled_out = sum(above(one[1], -LESS_COLLAPSE * one[0].value) for one in judging.values())
    words = "; ".join(
        f"{variant} {points(one[1])} where GRPO loses {one[0].value:.0%}" for variant, one in judging.items()
    )
    why = (
        "Measured by the entropy of the style words, which are equally likely at the start. GRPO itself loses "
        f"{min(losses):.0%} to {max(losses):.0%} of it by the end, less than a tenth in "
        f"{sum(one < 0.1 for one in losses)} variants; {len(judging)} of {len(changes)} variants can judge: there the "
        f"interval is narrower than an effect of 68 %, which lies outside of it in {ruled_out}. What {DEFAULT} loses "
        "more than GRPO, in points, "
        f"intervals widened for {len(changes)} comparisons: {words or 'none'}. Right answers among 8 samples: see "
        "the chapter."
    )
    word = "not testable at this size" if not judging else "supported" if len(less) == len(judging) else "not supported"
    figures = {f"{variant}: {name}": e for variant, one in changes.items() for name, e in zip("lm", one, strict=False)}
    short = f"less in {len(less)} of {len(judging)} variants that can judge; 68 % less ruled out in {ruled_out}"
    return Verdict(claim, word, why, flat(figures), short=short)  # type: ignore[arg-type]


def flat(estimates: Mapping[Any, Estimate]) -> dict[str, Any]:
    """Return estimates as plain values, by names in one text."""
    return {
        " / ".join(key) if isinstance(key, tuple) else str(key): [e.value, e.low, e.high]
        for key, e in estimates.items()
    }
