"""What the experiment says, as Markdown and verdicts, from its results."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.credit.comparison import points
from experiments.hindsight import claims
from experiments.hindsight.cells import TWO
from experiments.hindsight.comparison import between, gain, gains, mean
from experiments.hindsight.rules import ARMS, CHECKED, GOLD_ARM, LADDER, PEER_ARM, RATED
from experiments.report import folded, listed_verdicts, markdown_table, record_line

verdicts = claims.verdicts
advice = claims.advice


def section(results: Mapping[str, Any]) -> str:
    """Return the chapter of docs/results.md."""
    attacks = [arm for arm in ARMS if ARMS[arm].hint and arm not in (GOLD_ARM, PEER_ARM, *RATED, *CHECKED)]
    parts = [
        "## What a rule would have to know, and what hindsight knows",
        listed_verdicts(verdicts(results)),
        "### The ladder of knowledge",
        "Each rung is mixed half with GRPO's advantage unless it says *alone*; what it is told is exact, exact with "
        "noise on the logit of the value, or estimated. Area under the learning curve (mean reward over all rollouts) "
        "less that of GRPO from the same start, points, 95 % each. Rungs that were run in all variants:",
        _rungs_table(results),
        "![the ladder](figures/hindsight-ladder.png)",
        folded(
            "every rung, with final accuracy",
            "Sign: AUROC of what the rung says of a decisive pick against whether it was right, in either variant. "
            "Branches: share of a tree's branch points that are decisive picks. Trees replace half of the completions "
            "and make as many updates. GRPO scaled: its advantages at the size of the others'. Points, 95 % each.",
            _table(results, LADDER, ("sign_auroc", "branch_hits")),
        ),
        "### A frozen reference that is shown a hint",
        "`credit_rule=hindsight`: .7 of GRPO's advantage, .3 of i d in units of its root mean square over a "
        "completion, less where that is below a floor (chosen on other seeds); i is the log-ratio of the hinted to the "
        "plain reference, d their squared Hellinger distance. Gold: the answer. Peer: a right sibling. The warm-up "
        "taught the model to follow a hint 9 times in 10; GRPO starts from the same model. Every hint is used "
        "(`min_agreement=0`). Simultaneous intervals over the table (Bonferroni).",
        _hindsight_table(results),
        "![hindsight by variant](figures/hindsight-variants.png)",
        claims.without_distance(results),
        folded(
            "attacks on it: what is wrong, missing, stale or scaled otherwise",
            "Each changes one thing of the rows above. Sign and place: AUROC of i and d for the decisive picks. "
            "Overconfidence: how much more probable the favourite of two digits is than it is right, at the end, "
            "without a hint (a policy that acts as if it had been told is sure of wrong picks). *No hint is true*: "
            "each pick of a hint is drawn at random. *Trust t*: the warm-up taught that a hint is right with "
            "probability t, and .5 says nothing. *Refreshed n*: the reference is a copy of the policy, n rollouts old "
            "at most. *Against*: the hinted reference is compared with one that is shown another prompt's hint, or "
            "the answer in which every pick is wrong. Points, 95 % each.",
            _table(results, attacks, ("sign_auroc", "place_auroc", "overconfidence")),
        ),
        *_checked(results),
        *_rates(results),
        folded(
            "cost",
            f"Per training, as a multiple of GRPO's from the same start, in `{TWO[0]}` / `{TWO[1]}`: updates, tokens "
            "sampled and trained on, tokens of extra forward passes as a share of the sampled ones, and processor time "
            "of the training loop. Of the last only large differences mean something: the cells are of several "
            "sessions of a shared machine, and this toy model is bound by overhead. With a real one two more forward "
            "passes of the reference a rollout are what counts ([benchmarks](benchmarks.md)).",
            _cost_table(results),
        ),
        record_line(results["record"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_TITLES = {"sign_auroc": "sign", "place_auroc": "place", "branch_hits": "branches", "overconfidence": "overconfidence"}


def _rungs_table(results: Mapping[str, Any]) -> str:
    """The rungs that were run in all variants: one of these a row."""
    variants = list(results["rules"])
    arms = [arm for arm in LADDER if all(_is_compared(results, variant, arm) for variant in variants)]
    rows = [[f"`{variant}`", *(points(gain(results, variant, arm, "area")) for arm in arms)] for variant in variants]
    return markdown_table(["variant", *arms], rows) if arms else ""


def _is_compared(results: Mapping[str, Any], variant: str, arm: str) -> bool:
    present = results["rules"][variant]
    return arm != ARMS[arm].baseline and arm in present and ARMS[arm].baseline in present


def _table(results: Mapping[str, Any], arms: Sequence[str], figures: Sequence[str]) -> str:
    """Arms by the variants that judge."""
    variants = [variant for variant in TWO if variant in results["rules"]]
    rows = []
    for arm in arms:
        compared = [variant for variant in variants if _is_compared(results, variant, arm)]
        if not compared:
            continue
        gains_of = {
            (variant, figure): points(gain(results, variant, arm, figure))
            for variant in compared
            for figure in ("area", "accuracy")
        }
        means = [[mean(results, variant, arm, figure) for variant in compared] for figure in figures]
        rows.append(
            [
                arm,
                *(gains_of.get((variant, figure), "") for variant in variants for figure in ("area", "accuracy")),
                *(" / ".join(f"{value.value:.2f}" for value in both if value is not None) for both in means),
            ]
        )
    header = [f"`{variant}`: {figure}" for variant in variants for figure in ("area", "final")]
    return markdown_table(["arm", *header, *(_TITLES[figure] for figure in figures)], rows)


def _hindsight_table(results: Mapping[str, Any]) -> str:
    arms = (GOLD_ARM, PEER_ARM)
    areas, finals = (gains(results, arms, figure) for figure in ("area", "accuracy"))
    rows = []
    for variant in results["rules"]:
        if (variant, GOLD_ARM) not in areas:
            continue
        baseline = mean(results, variant, ARMS[GOLD_ARM].baseline, "area")
        sign, place = (mean(results, variant, GOLD_ARM, name) for name in ("sign_auroc", "place_auroc"))
        rows.append(
            [
                f"`{variant}`",
                "" if baseline is None else f"{baseline.value:.3f}",
                *(
                    points(table[variant, arm]) if (variant, arm) in table else ""
                    for arm in arms
                    for table in (areas, finals)
                ),
                *("" if value is None else f"{value.value:.2f}" for value in (sign, place)),
            ]
        )
    header = ["variant", "GRPO, area", "gold: area", "gold: final", "peer: area", "peer: final", "sign", "place"]
    return markdown_table(header, rows)


def _checked(results: Mapping[str, Any]) -> list[str]:
    """What it changes to leave out hints that the rewards contradict, where it was run."""
    variants = [variant for variant in TWO if variant in results["rules"]]
    rows = []
    for checked, plain in CHECKED.items():
        changed = {variant: one for (variant, _), one in between(results, checked, plain).items()}
        compared = [variant for variant in variants if variant in changed and _is_compared(results, variant, checked)]
        if not compared:
            continue
        cells = {
            variant: [points(gain(results, variant, arm, "area")) for arm in (plain, checked)]
            + [points(changed[variant])]
            for variant in compared
        }
        rows.append([plain, *(text for variant in variants for text in cells.get(variant, [""] * 3))])
    if not rows:
        return []
    titles = ("every hint", "checked", "difference")
    return [
        "### Hints that the rewards contradict",
        "`credit_rule=hindsight` leaves a hint out for a prompt whose own completions contradict it: where, of the "
        "pairs with different rewards, the better one is less often than not the one that the hint makes likelier "
        "(`min_agreement=.5`). Without any such pair the hint is used. The rewards here are right, whatever the hint "
        "says: a wrong answer that both are made of contradicts nothing. Area less GRPO's, points, 95 % each; the "
        "differences with intervals that hold for all variants of a row together.",
        markdown_table(["arm", *(f"`{variant}`: {title}" for variant in variants for title in titles)], rows),
    ]


def _rates(results: Mapping[str, Any]) -> list[str]:
    """GRPO and hindsight at the learning rate that is best for each on other seeds, where these were run."""
    rows = claims.at_best_rates(results)
    if not rows:
        return []
    return [
        "### Each at its own learning rate",
        "Chosen on seeds 10 to 19, compared on the others.",
        markdown_table(
            ["variant", "GRPO's rate", "hindsight's rate", "area", "final accuracy"],
            [[f"`{variant}`", *rates, *map(points, differences)] for variant, rates, differences in rows],
        ),
    ]


def _cost_table(results: Mapping[str, Any]) -> str:
    """Costs of each arm as multiples of its baseline's, one figure for each variant that judges."""
    rows = []
    for arm in (*LADDER, GOLD_ARM, PEER_ARM):
        compared = [variant for variant in TWO if variant in results["rules"] and _is_compared(results, variant, arm)]
        if not compared:
            continue
        costs = [results["rules"][variant][arm]["cost"] for variant in compared]
        bases = [results["rules"][variant][ARMS[arm].baseline]["cost"] for variant in compared]
        ratios = [
            [cost[name] / base[name] for cost, base in zip(costs, bases, strict=True)]
            for name in ("updates", "sampled_tokens", "trained_tokens", "cpu_seconds")
        ]
        ratios.insert(3, [cost["scored_tokens"] / cost["sampled_tokens"] for cost in costs])
        rows.append([arm, *(" / ".join(f"{ratio:.2f}" for ratio in each) for each in ratios)])
    header = ["arm", "updates", "tokens sampled", "trained on", "scored besides", "processor time"]
    return markdown_table(header, rows)
