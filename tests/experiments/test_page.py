import json

import pytest

from experiments import page, single_runs
from experiments.report import ROOT


def test_results_md_is_what_the_committed_results_give():
    assert page.PAGE.read_text() == page.page(), "run `python -m experiments.page`"
    assert page.README.read_text() == page.readme(), "run `python -m experiments.page`"
    assert "| GRPO | 0." in page.readme()


def test_the_page_names_every_experiment_figure_and_command():
    text = page.page()
    for name, command in page.EXPERIMENTS.items():
        assert name in text
        assert command.split(" && ")[-1].partition(" --model MODEL")[0] in text  # one of a model is run for several
    figures = {line.partition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert figures
    for figure in figures:
        path = ROOT / "docs" / figure
        assert path.is_file(), f"{figure} is missing"
        assert path.stat().st_size < 200_000, f"{figure} is {path.stat().st_size} bytes"


@pytest.mark.parametrize(
    ("computed", "said"), [(5, "2,000 cells, which took 8 minutes here"), (4, "2,000 cells, 17 minutes of a processor")]
)
def test_the_page_says_what_it_takes_to_make_it_again(computed, said):
    record = {"cells": 500, "cells_computed_by_this_command": 100 * computed, "cpu_seconds": 250, "wall_seconds": 120}
    own = {name: {"record": record} for name in ("credit", "hindsight", "surface", "gradient_stability")}
    text = page._again(own | {"smollm2": {"record": record}, "value_ground_truth": None})
    assert said in text
    assert page._again(own | {"surface": None, "smollm2": None, "value_ground_truth": None}) == ""


def test_an_experiment_without_results_is_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(page, "ROOT", tmp_path)
    text = page.page()
    for command in page.EXPERIMENTS.values():
        assert f"Not run yet: `{command}`." in text


def test_check_fails_on_a_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    stale, readme = tmp_path / "results.md", tmp_path / "README.md"
    monkeypatch.setattr(page, "PAGE", stale)
    monkeypatch.setattr(page, "README", readme)
    monkeypatch.setattr(page, "ROOT", tmp_path)
    stale.write_text("old\n")
    readme.write_text("first\n<!-- results: smollm2 -->\nold table\n<!-- end of results -->\nlast\n")
    assert page.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert said.count("run `python -m experiments.page`") == 2
    assert stale.read_text() == "old\n"
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
    assert "old table" not in readme.read_text()
    assert readme.read_text().startswith("first\n")
    assert readme.read_text().endswith("<!-- end of results -->\nlast\n")


@pytest.mark.parametrize("title", ["Claims of the paper", "Questions of our own"])
@pytest.mark.parametrize("word", ["supported", "not supported", "not testable at this size"])
def test_each_table_counts_its_verdicts(title, word):
    part = page.page().split(f"### {title}\n")[1].split("\n#")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ") and f"| **{word}** |" in line]
    counted = next(line for line in part.splitlines() if line.startswith("Of "))
    assert f" {len(rows)} {word}" in counted


def benchmarks(tmp_path, *, head, time, memory):
    """Results of the benchmarks in which DGPO takes so much of what GRPO + KL takes by the same code."""
    cases = {"A": {"dgpo_over": {"GRPO + KL": {"median": head}}}}
    (tmp_path / "lm_head_cpu.json").write_text(json.dumps({"cases": cases}))
    seconds = {"dgpo": [time], "grpo_kl_ours": [1.0], "grpo_kl_scored": [2 * time]}
    peaks = {"dgpo": [100 * memory] * 2, "grpo_kl_ours": [90.0, 100.0, 117.0], "grpo_kl_scored": [400 * memory]}
    for name in ("train_step_fp32", "train_step_bf16"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"seconds": seconds, "peak_mib_all": peaks}))
    return tmp_path


@pytest.mark.parametrize(
    ("head", "time", "memory", "words", "said"),
    [
        (1.04, 1.0, 1.0, ("supported", "supported"), "1.04 to 1.04"),
        (1.06, 1.0, 1.0, ("not supported", "supported"), "1.06 to 1.06"),
        (1.0, 1.04, 1.0, ("supported", "supported"), "1.04 in float32, 1.04 in bfloat16"),
        (1.0, 1.2, 1.0, ("not supported", "supported"), "1.20 in float32"),
        (1.0, 1.0, 1.1, ("supported", "not supported"), "1.10 in float32"),
    ],
)
def test_cost_is_judged_like_for_like(tmp_path, monkeypatch, head, time, memory, words, said):
    monkeypatch.setattr(single_runs, "BENCHMARKS", benchmarks(tmp_path, head=head, time=time, memory=memory))
    verdicts = single_runs.costs()
    assert tuple(verdict.verdict for verdict in verdicts) == words
    assert any(said in verdict.why for verdict in verdicts)
    # The comparison with another implementation is told and decides nothing.
    assert "a step takes 0.50 in float32" in verdicts[0].why
    assert "a step needs 0.25 in float32" in verdicts[1].why
    assert "by up to 30%" in verdicts[1].why
