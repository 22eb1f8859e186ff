"""The whole way of the reduced experiment, and what page and verdicts make of results with a known outcome."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.credit import comparison, page
from experiments.credit.rules import RULES

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
    found = copy.deepcopy(results)
    (reduced,) = found["rules"].values()
    (about,) = found["variants"].values()
    for rule, entry in reduced.items():
        shift = 0.0 if rule == "grpo" else ceiling if entry["ceiling"] else gain
        (first, *_) = entry["seeds"].values()
        entry["seeds"] = {
            str(seed): {name: 0.4 + seed / 100 + shift + seed % 3 / 1e4 * bool(shift) for name in first}
            for seed in range(10)
        }
        for series in entry["credit"].values():
            if isinstance(series, dict):
                series["credit"] = [0.25 for _ in series["credit"]]
        entry["credit"]["habit"] = entry["credit"]["decoy"]
    found["rules"] = {variant: copy.deepcopy(reduced) for variant in variants}
    found["variants"] = dict.fromkeys(variants, about)
    return found


def test_the_reduced_experiment_runs_every_rule_and_its_page_can_be_written(results):
    (rules,) = results["rules"].values()
    assert rules.keys() == RULES.keys()
    assert results["record"]["failed"] == {}
    assert set(rules["grpo"]["seeds"]) == {"0", "1"}
    assert len(page.verdicts(results)) == 5
    text = page.section(results)
    assert all(name in text for name in ("dgpo tau=.05", "signed oracle", "nan" if "nan" in text else "Headroom"))


def test_no_rule_is_called_better_where_none_is(results):
    found = made_up(results, gain=0.0, ceiling=0.1)
    text = page.section(found)
    assert text.split("\n\n")[1].startswith("**No rule beats GRPO")
    assert all(comparison.judges(found, variant) for variant in found["rules"])
    learns = page.verdicts(found)[0]
    assert (learns.verdict, "Better: 0, worse: 0" in learns.why) == ("not supported", True)


def test_a_rule_that_is_better_is_named_with_its_gain(results):
    found = made_up(results, gain=0.05, ceiling=0.1)
    assert "beat GRPO**" in page.section(found)
    assert "+5.0 (+" in page.section(found)
    assert page.verdicts(found)[0].verdict == "supported"
    worse = made_up(results, gain=-0.05, ceiling=0.1)
    assert "are worse" in page.section(worse)
    assert page.verdicts(worse)[0].verdict == "not supported"


def test_without_headroom_nothing_is_judged(results):
    found = made_up(results, gain=-0.05, ceiling=-0.01)
    assert page.verdicts(found)[0].verdict == "not testable at this size"
    assert "0 of 2 variants have headroom" in page.section(found)


def test_many_comparisons_need_more_than_one_interval(results):
    found = made_up(results, gain=0.0, ceiling=0.1)
    seeds = found["rules"]["habit"]["dgpo tau=.5"]["seeds"]
    for seed, values in seeds.items():
        values["area"] += 0.01 + (-1) ** int(seed) * 0.012  # 95 % of this one lies above 0, that of all does not
    alone = comparison.difference(found, "habit", "dgpo tau=.5", "area")
    assert alone.low > 0
    assert comparison.outcomes(found)["better"] == []


def test_the_committed_results_make_the_page():
    if not comparison.RESULTS.exists():
        pytest.skip("no results are committed yet")
    assert "forks" in page.section()
    assert {verdict.verdict for verdict in page.verdicts()} <= {
        "supported",
        "not supported",
        "not testable at this size",
    }
