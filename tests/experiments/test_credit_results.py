"""The whole way of the reduced experiment, and what page and verdicts make of results with a known outcome."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.credit import cells, comparison, page, verdicts
from experiments.credit.__main__ import EXPERIMENT
from experiments.credit.rules import ARMS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of the reduced experiment, run by its command."""
    folder = tmp_path_factory.mktemp("credit")
    command = [sys.executable, "-m", "experiments.credit", "--reduced", "--workers", "0", "--quiet"]
    subprocess.run([*command, "--cache", str(folder / "cells"), "--out", str(folder)], cwd=ROOT, check=True)
    assert {path.name for path in folder.glob("*.png")} >= {"credit-curves.png", "credit-differences.png"}
    return json.loads((folder / "credit.json").read_text())


def made_up(results, *, gain, ceiling, variants=("small groups", "habit")):
    """Results in which each rule's figures differ from GRPO's by `gain`, the ceilings' by `ceiling`, on ten seeds."""
    altered = copy.deepcopy(results)
    (reduced,) = altered["rules"].values()
    (about,) = altered["variants"].values()
    for rule, entry in reduced.items():
        shift = 0.0 if rule == "grpo" else ceiling if entry["ceiling"] else gain
        (first, *_) = entry["seeds"].values()
        figures = [*first, "credit_habit", "credit_per_token_habit"]
        entry["seeds"] = {
            str(seed): {name: 0.4 + seed / 100 + shift + seed % 3 / 1e4 * bool(shift) for name in figures}
            for seed in range(10)
        }
        for series in entry["credit"].values():
            if isinstance(series, dict):
                series["credit"] = [0.25 for _ in series["credit"]]
        entry["credit"]["habit"] = entry["credit"]["decoy"]
    altered["rules"] = {variant: copy.deepcopy(reduced) for variant in variants}
    altered["variants"] = dict.fromkeys(variants, about)
    return altered


@pytest.fixture
def equal_rules(results):
    """Results in which every rule learns what GRPO learns, and the ceilings more."""
    return made_up(results, gain=0.0, ceiling=0.1)


def put(altered, rule, figure, values, *, variants=("small groups", "habit")):
    """Let a rule have other figures: a number, or one for each seed as a function of GRPO's."""
    for variant in variants:
        rules = altered["rules"][variant]
        for seed, entry in rules[rule]["seeds"].items():
            entry[figure] = values(rules["grpo"]["seeds"][seed][figure]) if callable(values) else values


def verdict_of(altered, word):
    """The one verdict whose claim holds a word."""
    (verdict,) = (one for one in verdicts.verdicts(altered) if word in one.claim)
    return verdict


def test_the_reduced_experiment_runs_every_rule_and_its_page_can_be_written(results):
    (rules,) = results["rules"].values()
    assert rules.keys() == ARMS.keys()
    assert results["record"]["failed"] == {}
    assert set(rules["grpo"]["seeds"]) == {"0", "1"}
    assert len(page.verdicts(results)) == 5
    text = page.section(results)
    assert all(name in text for name in ("dgpo tau=.05", "signed oracle", "### Headroom", "ungated share 80 %"))
    # Four rollouts of a model that hardly learns leave out some figures, but none of those that decide.
    table = text.split("### Headroom")[1].split("### All rules")[0]
    assert "nan" not in table.split("### Where the signals point")[0]


def test_no_rule_is_called_better_where_none_is(equal_rules):
    text = page.section(equal_rules)
    assert text.split("\n\n")[1].startswith("**No rule beats GRPO")
    assert all(comparison.judges(equal_rules, variant) for variant in equal_rules["rules"])
    learns = page.verdicts(equal_rules)[0]
    assert (learns.verdict, "Better: 0, worse: 0" in learns.why) == ("not supported", True)


def test_a_rule_that_is_better_is_named_with_its_gain(results):
    altered = made_up(results, gain=0.05, ceiling=0.1)
    assert "beat GRPO**" in page.section(altered)
    assert "+5.0 (+" in page.section(altered)
    assert page.verdicts(altered)[0].verdict == "supported"
    worse = made_up(results, gain=-0.05, ceiling=0.1)
    assert "are worse" in page.section(worse)
    assert page.verdicts(worse)[0].verdict == "not supported"


def test_without_headroom_nothing_is_judged(results):
    altered = made_up(results, gain=-0.05, ceiling=-0.01)
    assert page.verdicts(altered)[0].verdict == "not testable at this size"
    assert "0 of 2 variants have headroom" in page.section(altered)


def test_many_comparisons_need_more_than_one_interval(equal_rules):
    seeds = equal_rules["rules"]["habit"]["dgpo tau=.5"]["seeds"]
    for seed, values in seeds.items():
        values["area"] += 0.01 + (-1) ** int(seed) * 0.012  # 95 % of this one lies above 0, that of all does not
    alone = comparison.difference(equal_rules, "habit", "dgpo tau=.5", "area")
    assert alone.low > 0
    assert comparison.outcomes(equal_rules)["better"] == []


def test_the_first_verdict_begins_with_what_weights_alone_can_gain(equal_rules):
    for rule in ("oracle", "oracle mixed .5", "oracle mixed .2"):
        put(equal_rules, rule, "area", lambda value: value)
    learns = page.verdicts(equal_rules)[0]
    assert "is above GRPO in 0 of 2 variants" in learns.why.split(". ")[0]
    put(equal_rules, "oracle mixed .5", "area", lambda value: value + 0.05, variants=("habit",))
    assert "in 1 of 2 variants" in page.verdicts(equal_rules)[0].why.split(". ")[0]
    assert "in 1 of 2 variants" in page.section(equal_rules)
    # At 95 % alone, but not for two variants at once.
    for seed, entry in equal_rules["rules"]["habit"]["oracle mixed .5"]["seeds"].items():
        entry["area"] += -0.05 + 0.012 * (-1) ** int(seed) + 0.0125
    single = page.verdicts(equal_rules)[0].why
    assert "in 0 of 2 variants by simultaneous intervals (Bonferroni), in 1 by intervals of 95 % each" in single


@pytest.mark.parametrize(
    ("both", "d", "h", "word", "said"),
    [
        (0.9, 0.8, 0.7, "supported", "below it in 0, above that of d alone in 2 and below it in 0"),
        (0.8, 0.9, 0.7, "not supported", "below it in 0, above that of d alone in 0 and below it in 2"),
        (0.7, 0.6, 0.8, "not supported", "below it in 2, above that of d alone in 2 and below it in 0"),
        (0.4, 0.3, 0.2, "not supported", "0.40 to 0.40 with d * h"),
    ],
)
def test_the_score_is_judged_by_its_parts_on_the_same_completions(equal_rules, both, d, h, word, said):
    for name, value in (("d*h", both), ("d", d), ("h", h)):
        put(equal_rules, "grpo", f"auroc_{name}", value)
    verdict = verdict_of(equal_rules, "points at the tokens")
    assert verdict.verdict == word
    assert said in verdict.why
    assert f"| `habit` | {both:.2f}" in page.section(equal_rules)


def gated(results, *, area, credit):
    """Results in which the gate changes area and credit of the habit by so much at equal shares."""
    altered = made_up(results, gain=0.0, ceiling=0.1)
    for percent in verdicts.SHARES:
        put(altered, f"share {percent} %", "area", lambda value: value + area)
        put(altered, f"share {percent} %", "credit_habit", lambda value: value + credit)
    # At one tau the gate looks good whatever it does.
    put(altered, verdicts.UNGATED, "area", lambda value: value - 0.3)
    return altered


@pytest.mark.parametrize(
    ("area", "credit", "word"),
    [
        (0.05, -0.1, "supported"),
        (0.0, -0.1, "not supported"),
        (0.05, 0.0, "not supported"),
        (-0.05, 0.1, "not supported"),
    ],
)
def test_the_gate_is_judged_at_equal_shares_of_the_credit(results, area, credit, word):
    altered = gated(results, area=area, credit=credit)
    verdict = verdict_of(altered, "entropy gate")
    assert verdict.verdict == word
    assert f"at 97 % area {100 * area:+.1f} (" in verdict.why
    assert f"credit of the habit {100 * credit:+.1f} (" in verdict.why


def test_the_gate_needs_both_rules_at_one_share(results):
    altered = gated(results, area=0.05, credit=-0.1)
    for percent in verdicts.SHARES:
        del altered["rules"]["habit"][f"ungated share {percent} %"]
    assert verdict_of(altered, "entropy gate").verdict == "not testable at this size"


def test_a_smaller_variance_is_needed_in_every_variant(equal_rules):
    assert verdict_of(equal_rules, "variance").verdict == "not supported"
    put(equal_rules, verdicts.DEFAULT, "norm_variance", lambda value: value * 0.5, variants=("habit",))
    assert verdict_of(equal_rules, "variance").verdict == "not supported"
    put(equal_rules, verdicts.DEFAULT, "norm_variance", lambda value: value * 0.5)
    verdict = verdict_of(equal_rules, "variance")
    assert verdict.verdict == "supported"
    assert "at tau = .5 0.50 to 0.50 in 2 variants, below 1 beyond its interval in 2" in verdict.why


def test_mode_collapse_is_judged_where_grpo_collapses(equal_rules):
    put(equal_rules, "grpo", "decoy_entropy_lost", 0.5)
    put(equal_rules, verdicts.DEFAULT, "decoy_entropy_lost", 0.1)
    assert verdict_of(equal_rules, "mode collapse").verdict == "supported"
    put(equal_rules, verdicts.DEFAULT, "decoy_entropy_lost", 0.5)
    assert verdict_of(equal_rules, "mode collapse").verdict == "not supported"
    # What GRPO loses is small beside what seeds differ in: an effect of 68 % would not be seen.
    put(equal_rules, "grpo", "decoy_entropy_lost", 0.02)
    for rules in equal_rules["rules"].values():
        for seed, entry in rules[verdicts.DEFAULT]["seeds"].items():
            entry["decoy_entropy_lost"] = 0.02 + (-1) ** int(seed) * 0.1
    verdict = verdict_of(equal_rules, "mode collapse")
    assert verdict.verdict == "not testable at this size"
    assert "0 of 2 variants can judge" in verdict.why


def test_the_committed_results_are_those_of_the_whole_plan():
    results = json.loads(EXPERIMENT.results.read_text())
    assert results["record"]["failed"] == {}
    for cell in cells.planned(EXPERIMENT.seeds):
        assert str(cell.seed) in results["rules"][cell.variant][cell.rule]["seeds"], cell
