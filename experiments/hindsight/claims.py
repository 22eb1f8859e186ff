"""What the experiment says about each claim, from its committed results."""

from collections.abc import Mapping
from typing import Any

from dgpo.lab.evaluation.intervals import Estimate
from experiments.credit.comparison import points
from experiments.hindsight.cells import CHOSEN_ON
from experiments.hindsight.comparison import between, gains, mean, per_seed
from experiments.hindsight.rules import (
    AGAINST,
    AGAINST_WRONG,
    ARMS,
    BARE,
    CHECKED,
    DEAF,
    GOLD_ARM,
    HINTS,
    LIKELIHOOD,
    PEER_ARM,
    RATED,
    SPREAD,
    UNTOLD,
    UNTRUE,
    WITHOUT_D,
    WRONG,
    WRONG_AGAINST,
)
from experiments.report import Verdict, above, below, paired_difference

EXACT, PLACES = "exact advantage", "which tokens decide"


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return what the experiment says about the project's own questions.

    Args:
        results: What the command has written.

    Returns:
        Verdicts.
    """
    asked = (_to_be_gained, _gold, _peer, _controlled, _checked, _likelihood, _untold, _untrue)
    return [verdict for ask in asked if (verdict := ask(results)) is not None]


def _to_be_gained(results: Mapping[str, Any]) -> Verdict:
    exact, places = (gains(results, [arm], "area") for arm in (EXACT, PLACES))
    better = [pair for pair, estimate in exact.items() if above(estimate)]
    why = (
        f"A rule that is told the exact advantage of each token gains {_listed(exact)}; one that is told which tokens "
        f"decide, but not whether they were right, gains {_listed(places)}."
    )
    short = f"exact token advantage: {_counted(exact)}; the places alone: {_counted(places)}"
    return _verdict("There is token-level credit to be gained here", bool(better), why, short)


def _gold(results: Mapping[str, Any]) -> Verdict:
    areas = gains(results, [GOLD_ARM], "area")
    better = [pair for pair, estimate in areas.items() if above(estimate)]
    worse = [pair for pair, estimate in areas.items() if below(estimate)]
    why = (
        f"A frozen reference that is shown the answer is better than GRPO in {len(better)} of {len(areas)} variants "
        f"and worse in {len(worse)}: {_listed(areas)}. It knows the sign of a decisive pick with AUROC "
        f"{_range(results, GOLD_ARM, 'sign_auroc')}."
    )
    claim = "A frozen reference that is shown the answer turns it into token credit that beats GRPO"
    return _verdict(claim, len(better) >= 2 and not worse, why, _counted(areas))


def _peer(results: Mapping[str, Any]) -> Verdict:
    areas = gains(results, [PEER_ARM], "area")
    better = [pair for pair, estimate in areas.items() if above(estimate)]
    worse = [pair for pair, estimate in areas.items() if below(estimate)]
    why = (
        f"Shown a right sibling in place of the answer, it is better in {len(better)} of {len(areas)} variants and "
        f"worse in {len(worse)}: {_listed(areas)}. Groups without a right completion learn nothing from it."
    )
    claim = "A right sibling serves as well as the answer"
    return _verdict(claim, len(better) >= 2 and not worse, why, _counted(areas))


def _controlled(results: Mapping[str, Any]) -> Verdict | None:
    """On a control in place of no hint; nothing where it was not run."""
    others, wrongs, astray = (gains(results, [arm], "area") for arm in (AGAINST, AGAINST_WRONG, WRONG_AGAINST))
    if not others:
        return None
    why = (
        f"Compared with another prompt's hint in place of no hint, the difference from GRPO is {_listed(others)}; less "
        f"than that against no hint, {_listed(between(results, AGAINST, GOLD_ARM))}."
        + (f" Against the answer in which every pick is wrong it is {_listed(wrongs)}." if wrongs else "")
        + (
            f" With one hint in four wrong and another prompt's as the control it is {_listed(astray)}."
            if astray
            else ""
        )
    )
    claim = "Compared with another prompt's hint (`hint_control=other`), the answer still beats GRPO"
    return _verdict(claim, all(map(above, others.values())), why, _counted(others))


def _checked(results: Mapping[str, Any]) -> Verdict | None:
    """On leaving out hints that the rewards contradict; nothing where it was not run."""
    changed = {plain: between(results, checked, plain) for checked, plain in CHECKED.items()}
    right, wrong = changed[GOLD_ARM], changed[WRONG]
    if not right or not wrong:
        return None
    left = {plain: gains(results, [f"{plain}, checked"], "area") for plain in (WRONG, UNTRUE)}
    why = (
        "A hint is left out for a prompt whose own completions contradict it; the rewards here are right, whatever the "
        "hint says. Where all hints are right that changes "
        f"the area by {_listed(right)}; where one in four is wrong by {_listed(wrong)}, which makes it "
        f"{_listed(left[WRONG])} from GRPO's"
        + (
            f"; where no hint is true by {_listed(changed[UNTRUE])}, which leaves it {_listed(left[UNTRUE])} from "
            "GRPO's"
            if changed[UNTRUE]
            else ""
        )
        + ". A prompt whose completions are all wrong contradicts nothing."
    )
    claim = "Leaving out hints that the rewards contradict helps where hints are wrong and costs nothing elsewhere"
    holds = all(map(above, wrong.values())) and not any(map(below, right.values()))
    short = f"all right: {_spread(right)}; one in four wrong: {_spread(wrong)}"
    return _verdict(claim, holds, why, short)


def _likelihood(results: Mapping[str, Any]) -> Verdict | None:
    """On the value that needs no hint; nothing where it was not run."""
    areas, finals = (gains(results, [LIKELIHOOD], figure) for figure in ("area", "accuracy"))
    if not areas:
        return None
    why = (
        "The policy's own likelihood of the right answer where its trace is cut off after each fork; the change of its "
        f"logarithm, mixed half. Area less GRPO's: {_listed(areas)}; final accuracy: {_listed(finals)}; AUROC of its "
        f"sign at a decisive pick {_range(results, LIKELIHOOD, 'sign_auroc')}. Its warm-up taught the policy to answer "
        "when it is interrupted, and GRPO starts from the same policy. It takes a forward pass for each cut and no "
        "reference; but it is told which tokens are the picks, and they alone bear the change. What the same quantity "
        "tells in SmolLM2, which nobody taught that, stands in the chapter on where value changes."
    )
    claim = "Told where decisions lie, a policy that can answer when interrupted finds credit in its own likelihood"
    return _verdict(claim, all(map(above, areas.values())), why, _counted(areas))


def _untold(results: Mapping[str, Any]) -> Verdict | None:
    """On the likelihood where nobody says which tokens decide; nothing where it was not run."""
    areas = gains(results, UNTOLD, "area")
    if not areas:
        return None
    of_arm = {arm: {key: one for key, one in areas.items() if key[1] == arm} for arm in UNTOLD}
    exact = gains(results, [SPREAD], "area")
    why = (
        "The same change borne by every token of the stretch that it is measured over: "
        f"{_listed(of_arm[UNTOLD[0]])}. Of a policy that was taught to answer after any token, with a cut after each, "
        f"so that no place has to be known: {_listed(of_arm[UNTOLD[1]])}; times the entropy of the token: "
        f"{_listed(of_arm[UNTOLD[2]])}; of the likelihood and not its logarithm: {_listed(of_arm[UNTOLD[3]])}. Each is "
        "compared with GRPO from its own start. It is not the spreading: with exact values, borne by every token of a "
        f"stretch, the area is {_listed(exact) or 'unknown'} from GRPO's. It is the likelihood's errors on tokens that "
        "decide nothing, form included. So it is no rule of this package: one would have to know which tokens decide, "
        "which a hinted reference says by its distance."
    )
    claim = "A policy's likelihood of the answer finds credit without being told where decisions lie"
    better, worse = (sum(map(is_beyond, areas.values())) for is_beyond in (above, below))
    short = f"{len(UNTOLD)} ways: {better} better, {worse} worse of {len(areas)}, {_spread(areas)}"
    return _verdict(claim, any(all(map(above, one.values())) for one in of_arm.values() if one), why, short)


def _untrue(results: Mapping[str, Any]) -> Verdict:
    untrue, wrong = (gains(results, [arm], "area") for arm in (UNTRUE, WRONG))
    deaf, bare = gains(results, [DEAF], "area"), gains(results, [BARE], "area")
    leaks = " and ".join(
        f"{value.value:+.2f} in `{variant}`"
        for variant in results["rules"]
        if UNTRUE in results["rules"][variant] and (value := mean(results, variant, UNTRUE, "overconfidence"))
    )
    why = (
        f"Where one hint in four is wrong the difference from GRPO is {_listed(wrong)}. Where no hint is true it is "
        f"{_listed(untrue)}: the policy acts as if it had been told and is surer of its picks than they are right, by "
        f"{leaks} of probability."
        + (
            " Where the hints are true and the reference was taught nothing about them, so that i is noise, it is "
            f"{_listed(deaf)}; without the floor, at one size however little the hint says, {_listed(bare)}."
            if deaf and bare
            else ""
        )
    )
    claim = "It does no harm where hints are untrue or the reference does not follow them"
    harmed = any(below(estimate) for estimate in (*untrue.values(), *deaf.values()))
    short = f"no hint is true: {_spread(untrue)}; the reference is deaf: {_spread(deaf)}"
    return _verdict(claim, not harmed, why, short)


def advice(results: Mapping[str, Any]) -> str:
    """Return what a user should make of it.

    Args:
        results: The committed results.

    Returns:
        A paragraph.
    """
    areas, peers = gains(results, [GOLD_ARM], "area"), gains(results, [PEER_ARM], "area")
    better = [f"`{variant}`" for (variant, _), estimate in areas.items() if above(estimate)]
    useful = [f"`{variant}`" for (variant, _), estimate in peers.items() if above(estimate)]
    controlled = gains(results, [AGAINST], "area").values()
    kept = " Compared with another prompt's hint (`hint_control=other`, the default) it keeps the gain there."
    wrong_pays = any(above(estimate) for estimate in gains(results, [WRONG], "area").values())
    return (
        "Verified answers in your data, and most of your groups teach GRPO nothing? Then `credit_rule=hindsight` with "
        f"`hint=gold` is worth a trial: on `forks` it pays in {len(better)} of {len(areas)} variants. It reads the "
        "answers, which GRPO does not, and so also teaches where all completions are wrong. Keep the reference frozen, "
        "and look at `dgpo/hint/auroc` in the log first: near .5 your model does not follow hints, or they are wrong, "
        "and wrong hints do harm (where every hint is used it "
        f"{'still pays' if wrong_pays else 'no longer pays'} with a quarter of them wrong)."
        + _said_of_checks(results)
        + (kept if controlled and all(map(above, controlled)) else "")
        + f" `hint=peer` pays in {', '.join(useful) or 'no variant'}. There the model was taught to follow hints and "
        "the answer is the picks themselves, which is more than most answers say of the steps that lead to them."
    )


def _said_of_checks(results: Mapping[str, Any]) -> str:
    """What leaving out hints that the rewards contradict is good for; nothing where it was not run."""
    areas = gains(results, [f"{WRONG}, checked"], "area")
    if not areas:
        return ""
    pays = "pays" if all(map(above, areas.values())) else "does not surely pay"
    return (
        " A hint that its prompt's own rewards contradict is left out by default. With a quarter of them wrong, and "
        f"rewards that do not come from the same wrong answers, it then {pays}: {_spread(areas)}. "
        "`dgpo/hint/contradicted` says how often that is so."
    )


def without_distance(results: Mapping[str, Any]) -> str:
    """Whether d adds anything to i, in a sentence; nothing where it was not asked."""
    differences = between(results, GOLD_ARM, WITHOUT_D)
    if not differences:
        return ""
    adds = "adds to" if all(map(above, differences.values())) else "adds nothing certain to"
    return f"The distance d {adds} the log-ratio i: with it less without, {_listed(differences)}."


def at_best_rates(
    results: Mapping[str, Any],
) -> list[tuple[str, tuple[str, str], tuple[Estimate, Estimate]]]:
    """Return GRPO and hindsight, each at the rate that is best on other seeds, where all rates were run.

    Args:
        results: The committed results.

    Returns:
        Variant, the two rates, and the differences of area and accuracy on the seeds of the comparison.
    """
    rows = []
    for variant, present in results["rules"].items():
        families = [[name for name in (base, *RATED) if name.startswith(base)] for base in (HINTS, GOLD_ARM)]
        if any(
            name not in present or not per_seed(results, variant, name, "area", CHOSEN_ON)
            for family in families
            for name in family
        ):
            continue
        best = [max(family, key=lambda name: _mean(results, variant, name)) for family in families]
        differences = tuple(
            paired_difference(*(per_seed(results, variant, name, figure) for name in reversed(best)))
            for figure in ("area", "accuracy")
        )
        factors = tuple(f"x {ARMS[name].rate:g}" for name in best)
        rows.append((variant, factors, differences))
    return rows  # type: ignore[return-value]


def _mean(results: Mapping[str, Any], variant: str, arm: str) -> float:
    values = per_seed(results, variant, arm, "area", CHOSEN_ON).values()
    return sum(values) / len(values)


def _listed(estimates: Mapping[tuple[str, str], Estimate]) -> str:
    return ", ".join(f"{points(estimate)} in `{variant}`" for (variant, _), estimate in estimates.items())


def _counted(estimates: Mapping[tuple[str, str], Estimate]) -> str:
    better, worse = (sum(map(is_beyond, estimates.values())) for is_beyond in (above, below))
    return f"better in {better} of {len(estimates)} variants, worse in {worse}: {_spread(estimates)}"


def _spread(estimates: Mapping[Any, Estimate]) -> str:
    values = [100 * estimate.value for estimate in estimates.values()]
    return f"{min(values):+.1f} to {max(values):+.1f} points" if values else "not run"


def _range(results: Mapping[str, Any], arm: str, figure: str) -> str:
    values = [mean(results, variant, arm, figure) for variant in results["rules"] if arm in results["rules"][variant]]
    known = [value.value for value in values if value is not None]
    return f"{min(known):.2f} to {max(known):.2f}" if known else "unknown"


def _verdict(claim: str, holds: bool, why: str, short: str) -> Verdict:
    return Verdict(claim, "supported" if holds else "not supported", why, asked_by="us", short=short)
