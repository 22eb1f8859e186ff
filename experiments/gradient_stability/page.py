"""What the experiment says, as Markdown and verdicts, generated from its committed results."""

import math
from collections.abc import Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.gradient_stability import summary
from experiments.gradient_stability.summary import UNSWEPT, per_seed
from experiments.gradient_stability.theory import TERMS, largest_weight
from experiments.gradient_stability.training import BETA, RULES, SETTINGS, WORD
from experiments.report import (
    Verdict,
    folded,
    interval,
    listed_verdicts,
    markdown_table,
    paired_difference,
    record_line,
    shown,
)

_KL_RULES = ("k3", "reverse-kl", "k1-in-reward")
_IN_REWARD = "k1-normalised"
_SMALLEST = "reference=1e-12"
_OTHER_DIRECTION = (
    "k3's gradient explodes in the other direction: the policy's probability vanishes, the reference's does not"
)
_STEADIER = "DGPO's gradients are smaller than those of GRPO with a KL penalty"


_SIDES = {
    "reference": f"{WORD} vanishes under the reference, and the policy samples it",
    "policy": f"{WORD} vanishes under the policy, not under the reference",
    "stale": f"{WORD} vanishes under the policy after the completions were sampled",
}


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it."""
    said = {verdict.claim: verdict.verdict for verdict in verdicts(results)}
    steadier, explodes = said[_STEADIER], said[_OTHER_DIRECTION]
    return (
        "Afraid of a KL penalty's gradients? Where the reference's probability vanishes none explodes, and DGPO's are "
        f"{'smaller than' if steadier == 'supported' else 'no smaller than'} those with k3."
        + (
            " With stale completions k3 does explode: TRL's `use_bias_correction_kl`, the exact KL, or no penalty."
            if explodes == "supported"
            else ""
        )
    )


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    steps, batch = SETTINGS["steps"], SETTINGS["prompts"] * SETTINGS["num_generations"]
    parts = [
        "## Does a KL penalty explode where DGPO does not?",
        _summary(results),
        "### In theory: the gradient of one sampled token with respect to its logits",
        _THEORY_TEXT,
        _terms_table(results),
        _weights_text(),
        "![gradient norms in theory](figures/gradient-stability-theory.png)",
        "### In a run: `forks`, with one token of vanishing probability",
        f"The forks model samples `{WORD}` with a probability of about 1/4 at each decoy. A constant added to that "
        f"token's logit lowers the probability: under the reference, under the policy, or under the policy after its "
        "completions were sampled (stale rollouts; no rule corrects the penalty for that, as TRL does not by default). "
        f"{steps} steps of {batch} completions, learning rate {SETTINGS['learning_rate']:g}, beta {BETA}, gradients "
        f"clipped to {SETTINGS['max_grad_norm']:g} after their norm was taken. Norm, and reward of the last five "
        "steps: mean over the seeds, smallest and largest seed.",
        "![gradient norms in runs](figures/gradient-stability-runs.png)",
        *(folded(_SIDES[side], _runs_table(results, side)) for side in ("reference", "policy", "stale")),
        record_line(results["record"]),
    ]
    return "\n\n".join(parts) + "\n"


_THEORY_TEXT = f"""Policy p, reference q, sampled token y, e_y its one-hot vector. All formulas are checked against
autograd in float64 (`tests/experiments/test_gradient_stability.py`). Norms for V = 100, the other 99 tokens alike, and
without the factor beta (usually {BETA} or less) that a penalty is multiplied by. DGPO's weight is that of a token among
999 others on which policy and reference agree."""


def _terms_table(results: Mapping[str, Any]) -> str:
    columns = [("reference", 1e-1), ("reference", 1e-4), ("reference", 1e-8), ("reference", 1e-16)]
    columns += [("policy", 1e-4), ("policy", 1e-8)]
    rows = {(side, row["probability"]): row for side in ("reference", "policy") for row in results["theory"][side]}
    picked = [min((key for key in rows if key[0] == c[0]), key=lambda key: abs(key[1] / c[1] - 1)) for c in columns]
    lines = [
        [term.label, f"`{term.formula}`", term.bound, *(f"{rows[key][name]:.3g}" for key in picked)]
        for name, term in TERMS.items()
    ]
    for tau in (0.5, 0.05):
        label, bound = f"DGPO, A = 1, tau = {tau}", f"sqrt(2) abs(A) min(T, {largest_weight(10**12, tau):.3g})"
        lines.append([label, "`-A w_y (e_y - p)`", bound, *(f"{rows[key][f'dgpo_tau{tau}']:.3g}" for key in picked)])
    header = ["term", "gradient", "bound of the norm"]
    header += [f"{'q' if side == 'reference' else 'p'}_y = {value:.0e}" for side, value in columns]
    return markdown_table(header, lines) + "\n\nColumns of q_y: p_y = 1/4. Columns of p_y: q_y = 1/4."


def _weights_text() -> str:
    return (
        "The weights of a completion have mean 1, so redistribution moves gradient between tokens and adds none, "
        "measured by the sum of the tokens' norms; measured by the root of the sum of squares it adds up to a factor "
        "sqrt(T). One token can get w = T e^(1/tau) / (e^(1/tau) + T - 1): at T = 1000, "
        + ", ".join(f"{largest_weight(1000, tau):.3g} at tau = {tau:g}" for tau in (1.0, 0.5, 0.1, 0.05))
        + "."
    )


def _runs_table(results: Mapping[str, Any], side: str) -> str:
    variants = summary.variants(results, side)
    header = [
        "mean gradient norm (smallest to largest seed)",
        *(f"{summary.probability(variant):g}" for variant in variants),
    ]
    header += ["largest, any seed", f"reward at {summary.probability(variants[-1]):g}"]
    rows = []
    for rule, (label, _) in RULES.items():
        # GRPO does not look at the reference: along that sweep it was trained once.
        looked_up = [UNSWEPT] * len(variants) if (side, rule) == ("reference", "grpo") else variants
        means = [per_seed(results, variant, rule, "mean") for variant in looked_up]
        if not any(means[1:]):
            continue
        every = [value for v in looked_up for value in per_seed(results, v, rule, "largest").values()]
        reward = _spread(per_seed(results, looked_up[-1], rule, "reward"))
        rows.append([label, *map(_spread, means), f"{max(every):.3g}", reward])
    return markdown_table(header, rows)


def _spread(values: Mapping[int, float]) -> str:
    if not values:
        return "-"
    mean = sum(values.values()) / len(values)
    digits = 2 if mean < 10 else 0
    return f"{mean:.{digits}f} ({min(values.values()):.{digits}f} to {max(values.values()):.{digits}f})"


def _ratio(values: Mapping[int, float]) -> str:
    """Geometric mean with Student's interval of the logarithms: ratios of norms are far from symmetric."""
    return shown(_exp10(interval([math.log10(value) for value in values.values()])), digits=2)


def _growth(results: Mapping[str, Any], rule: str) -> dict[int, float]:
    """Mean gradient norm at the smallest probability of the reference, over that at 1/4, per seed."""
    there, here = (per_seed(results, variant, rule, "mean") for variant in (_SMALLEST, UNSWEPT))
    return {seed: there[seed] / here[seed] for seed in there.keys() & here.keys()}


def _summary(results: Mapping[str, Any]) -> str:
    rewards = {
        "GRPO": (UNSWEPT, "grpo"),
        "q = 1/4": (UNSWEPT, _IN_REWARD),
        "q = 1e-12": (_SMALLEST, _IN_REWARD),
    }
    listed = ", ".join(f"{name} {_spread(per_seed(results, *of, 'reward'))}" for name, of in rewards.items())
    goal = (
        "- What a vanishing reference does change is the goal. k1 taken off the group's rewards is divided by the "
        f"group's spread with them, so its gradient cannot explode; but {BETA} log(1/q) per token competes with a "
        f"reward of 1. Reward of the last steps, mean (smallest to largest seed): {listed}."
    )
    return "\n".join([listed_verdicts(verdicts(results)), goal])


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the experiment says about the claims on stability.

    Args:
        results: What the command has written.

    Returns:
        Verdicts.
    """
    return [_bounded(results), _kl_explodes(results), _other_direction(results), _steadier(results)]


def _bounded(results: Mapping[str, Any]) -> Verdict:
    rows = results["theory"]["reference"]
    last = rows[-1]
    growth = _growth(results, "dgpo")
    bounded = last["dgpo_tau0.5"] <= 2**0.5 * largest_weight(1000, 0.5)
    return Verdict(
        "The Hellinger signal is bounded, and so is the weight, however small the reference's probability",
        "supported" if bounded else "not supported",
        "d lies in [0, 1] and w below min(T, e^(1/tau)), by the formulas. One token's gradient at tau = 0.5 is "
        f"{last['dgpo_tau0.5']:.2f} at q = 1e-16 beside {last['surrogate']:.2f} for GRPO; in the run its norm at 1e-12 "
        f"is {_ratio(growth)} times that at 1/4. The bound is of use at large tau only: of 1000 tokens one may weigh "
        f"{largest_weight(1000, 0.5):.1f} at tau = 0.5 and {largest_weight(1000, 0.05):.0f} at tau = 0.05. GRPO "
        "without a penalty, today's usual baseline, is bounded as well.",
        {"growth": growth},
        short=f"one token's gradient at q = 1e-16: {last['dgpo_tau0.5']:.2f}, GRPO's {last['surrogate']:.2f}",
    )


def _kl_explodes(results: Mapping[str, Any]) -> Verdict:
    last = results["theory"]["reference"][-1]
    growth = {rule: _growth(results, rule) for rule in _KL_RULES}
    exploded = [rule for rule, values in growth.items() if values and interval(list(values.values())).value > 10]
    named = "; ".join(f"{RULES[rule][0]} {_ratio(values)}" for rule, values in growth.items())
    return Verdict(
        "A KL penalty's gradient explodes where the reference's probability vanishes",
        "supported" if exploded else "not supported",
        "It depends on the estimator, and none explodes. k3, the one TRL and GRPO use, stays below sqrt(2) beta there "
        f"(its *value* grows, its gradient does not: {last['k3']:.2f} beta at q = 1e-16). KL over the vocabulary, k1 "
        f"in the reward and k2 have no bound but grow with log(1/q): k1's is {last['k1_in_reward']:.1f} beta at "
        f"1e-16, {last['k1_in_reward'] * BETA:.2f} at beta = {BETA}. In the run, norm at 1e-12 over norm at 1/4: "
        f"{named}.",
        {"growth": growth},
        short=f"at q = 1e-16: k3 {last['k3']:.2f} beta, k1 {last['k1_in_reward']:.1f} beta; none explodes",
    )


def _other_direction(results: Mapping[str, Any]) -> Verdict:
    last = results["theory"]["policy"][-1]
    stale, policy = summary.variants(results, "stale")[-1], summary.variants(results, "policy")[-1]
    k3 = {variant: per_seed(results, variant, "k3", "largest") for variant in (policy, stale)}
    dgpo = {variant: per_seed(results, variant, "dgpo", "largest") for variant in (policy, stale)}
    exploded = min(k3[stale].values()) > 10 * max(dgpo[stale].values())
    return Verdict(
        _OTHER_DIRECTION,
        "supported" if exploded else "not supported",
        f"Its factor is 1 - q/p: {last['k3']:.1e} beta at p = 1e-8, q = 1/4. On its own samples a policy meets such a "
        f"token with probability p, so the expected gradient stays that of a bounded divergence, p - q, and only the "
        f"variance grows: largest norm in the run at p = {summary.probability(policy):g}, mean (smallest to largest "
        f"seed): {_spread(k3[policy])}, DGPO tau = 0.5 {_spread(dgpo[policy])}. With stale completions at "
        f"{summary.probability(stale):g}: {_spread(k3[stale])}, DGPO {_spread(dgpo[stale])}; reward of the last steps "
        f"{_spread(per_seed(results, stale, 'k3', 'reward'))}, DGPO "
        f"{_spread(per_seed(results, stale, 'dgpo', 'reward'))}. This is a weakness of the estimator (TRL's "
        "`use_bias_correction_kl` is made for it), not of KL: the exact KL over the vocabulary does not have it.",
        {"k3": k3, "dgpo": dgpo},
        asked_by="us",
        short=f"largest norm with stale completions: {_spread(k3[stale])}, DGPO {_spread(dgpo[stale])}",
    )


def _steadier(results: Mapping[str, Any]) -> Verdict:
    ratios = {}
    for rule in ("dgpo", "dgpo-sharp"):
        treated: dict[int, list[float]] = {}
        for variant in summary.variants(results, "reference"):
            ours, theirs = (per_seed(results, variant, name, "log_mean") for name in (rule, "k3"))
            for seed in ours.keys() & theirs.keys():
                treated.setdefault(seed, []).append(ours[seed] - theirs[seed])
        means = {seed: sum(values) / len(values) for seed, values in treated.items()}
        ratios[rule] = paired_difference(means, dict.fromkeys(means, 0.0))
    ratio = {rule: shown(_exp10(estimate), digits=2) for rule, estimate in ratios.items()}
    high = ratios["dgpo"].high
    largest = {
        rule: max(
            v
            for side in summary.variants(results, "reference")
            for v in per_seed(results, side, rule, "largest").values()
        )
        for rule in ("k3", "dgpo", "dgpo-sharp")
    }
    return Verdict(
        _STEADIER,
        "supported" if high is not None and high < 0 else "not supported",
        f"Gradient norm of DGPO over that of GRPO + {BETA} KL (k3), geometric mean over the reference's probabilities: "
        f"{ratio['dgpo']} at tau = 0.5, {ratio['dgpo-sharp']} at tau = 0.05. Largest norm of any step: "
        f"{largest['k3']:.1f} with k3, {largest['dgpo']:.1f} and {largest['dgpo-sharp']:.1f} with DGPO.",
        {"ratio_log10": {rule: estimate.value for rule, estimate in ratios.items()}, "largest": largest},
        asked_by="us",
        short=f"{ratio['dgpo']} times the norm with k3, at tau = 0.5",
    )


def _exp10(estimate: Estimate) -> Estimate:
    return Estimate(*(None if end is None else 10**end for end in (estimate.value, estimate.low, estimate.high)))  # type: ignore[arg-type]
