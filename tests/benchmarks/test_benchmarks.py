"""The benchmarks run, on the smallest sizes, and the documented tables are those of the committed results."""

import argparse
import json
import os
import runpy
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from process_groups import run_forked

ROOT = Path(__file__).parents[2]


def be_benchmark(script: str, options: tuple[str, ...]) -> None:
    """What `python benchmarks/SCRIPT.py OPTIONS` does."""
    os.chdir(ROOT)
    sys.argv = [f"benchmarks/{script}.py", *options]
    sys.path.insert(0, "benchmarks")
    warnings.simplefilter("ignore")
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(script: str, *options: str) -> str:
    """Run a benchmark in a forked process, which need not load torch and TRL again; return what it prints."""
    (out,) = run_forked(partial(be_benchmark, script, options), ranks=None)
    return out


def test_documented_tables_and_the_history_are_up_to_date():
    run("tables")
    run("history")


def test_a_new_result_is_appended_to_the_history_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import history

    (tmp_path / "results").mkdir()
    monkeypatch.setattr(history, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(history, "HISTORY", tmp_path / "history.csv")
    history.HISTORY.write_text((ROOT / "benchmarks" / "history.csv").read_text())
    known = len(history.read())
    result = json.loads((ROOT / "benchmarks" / "results" / "train_step_fp32.json").read_text())
    result["machine"]["date"] = "2027-01-01"
    (tmp_path / "results" / "train_step_fp32.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["history.py", "--append"])
    assert history.main() == 0
    new = history.read()[known:]
    assert {row["date"] for row in new} == {"2027-01-01"}
    values = {row["ratio"]: float(row["value"]) for row in new}
    assert values["seconds, dgpo / grpo_kl_ours"] == pytest.approx(1.8665 / 1.9042, rel=1e-2)
    assert history.missing() == []


def test_watching(tmp_path):
    found = tmp_path / "found.json"
    sizes = ("--shape", "tiny", "--completions", "4", "--tokens", "3+8", "--repeats", "1")
    run("watching", *sizes, "--output", str(found))
    cases = json.loads(found.read_text())["tokens"]["3+8"]
    assert set(cases) == {"no reference", "TRL's reference model", "adapter switched off"}
    assert all(set(case["seconds"]) == {"loss", "logged step", "forward"} for case in cases.values())
    assert str(tmp_path.parent) not in found.read_text()


def test_two_revisions_take_turns(monkeypatch, capsys):
    """The other revision runs its own package and its own script, and its worktree is gone afterwards."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare

    order = []

    def measured(tree, options):
        assert (tree / "src" / "dgpo").is_dir()
        order.append(tree)
        seconds = 2.0 if tree == compare.HERE else 4.0
        return {"seconds": {"dgpo": [seconds]}, "peak_mib": {"dgpo": 1.0}}

    monkeypatch.setattr(compare, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["compare.py", "HEAD", "--rounds", "2"])
    compare.main()
    there = order[0]
    assert order == [there, compare.HERE, compare.HERE, there]
    assert "here / HEAD 0.50" in capsys.readouterr().out
    trees = subprocess.check_output(["git", "worktree", "list"], cwd=ROOT, text=True)
    assert str(there) not in trees
    monkeypatch.setattr(sys, "argv", ["compare.py", "no-such-revision"])
    with pytest.raises(SystemExit, match="no revision of this repository"):
        compare.main()


def test_lm_head(tmp_path):
    found = tmp_path / "found.json"
    run("lm_head", "--cases", "tiny", "--only", "GRPO + KL", "--repeats", "1", "--device", "cpu", "--save", str(found))
    result = json.loads(found.read_text())
    case = result["cases"]["tiny"]
    assert set(case["seconds"]) == {"DGPO", "GRPO + KL", "matrix products alone"}
    assert set(case["peak_mib_above_weight_gradient"]) == {"DGPO", "GRPO + KL"}
    assert str(tmp_path.parent) not in found.read_text()


def test_a_contender_that_fails_while_its_memory_is_watched_costs_nothing_else(tmp_path, monkeypatch):
    """Its times stay, with the reason beside them, and a case that was measured is on the disk before the next."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import lm_head

    def peak_or_failure(_, name, *__):
        if name == "GRPO + KL":
            raise RuntimeError("--peak-of ... failed:\nTraceback ...\ntorch.OutOfMemoryError: out of memory")
        return 1.5

    measured = []

    def stop_at_the_second(case, *rest, measure=lm_head.measure):
        if measured:
            raise KeyboardInterrupt
        measured.append(case)
        return measure(case, *rest)

    found = tmp_path / "found.json"
    options = ["--cases", "tiny", "A-fp32", "--only", "GRPO + KL", "--repeats", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["lm_head.py", *options, "--save", str(found)])
    monkeypatch.setattr(lm_head, "own_process", peak_or_failure)
    monkeypatch.setattr(lm_head, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        lm_head.main()
    case = json.loads(found.read_text())["cases"]["tiny"]
    assert case["peak_mib_above_weight_gradient"] == {"DGPO": 1.5}
    assert case["without_peak"] == {"GRPO + KL": "torch.OutOfMemoryError: out of memory"}
    assert set(case["seconds"]) == {"DGPO", "GRPO + KL", "matrix products alone"}


def test_lm_head_contenders_agree(monkeypatch):
    """What is compared computes the same: every contender's gradients are those of full logits."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _lm_head_contenders as heads
    import torch

    problem = heads.make_problem(24, 16, 300, "float32", "cpu")
    expected = heads.dgpo_full_logits(problem)
    for run_contender in (heads.dgpo, heads.grpo, heads.grpo_kl, heads.trl_grpo_kl):
        for mine, truth in zip(run_contender(problem), expected, strict=True):
            torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-6)


def test_reference_logps_of_our_grpo_kl(monkeypatch):
    """The reduction without entropy gives the log-probabilities of the full one."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _lm_head_contenders as heads
    import torch

    from dgpo.lm_head.streamed import streamed_stats
    from dgpo.lm_head.tiles_torch import TORCH_TILES

    problem = heads.make_problem(24, 16, 300, "float32", "cpu")
    all_ops = (TORCH_TILES, TORCH_TILES._replace(reduction=heads.LogpReduction))
    args = (problem.ref, None, problem.targets, heads.PLAIN, torch.float32)
    whole, alone = (streamed_stats(*args, tile_ops=tile_ops).logps for tile_ops in all_ops)
    torch.testing.assert_close(alone, whole, rtol=1e-6, atol=1e-6)


def test_train_step(tmp_path):
    found = tmp_path / "found.json"
    sizes = {"vocab-size": 300, "hidden-size": 64, "layers": 1, "batch-size": 2, "completion-length": 8}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    contenders = ("--contenders", "dgpo", "grpo_ours")
    run("train_step", *options, *contenders, "--repeats=1", "--generate=1", "--device=cpu", "--save", str(found))
    result = json.loads(found.read_text())
    assert set(result["seconds"]) == set(result["seconds_with_generation"]) == set(result["peak_mib"])
    assert set(result["allocated_mib"]) == set(result["peak_mib"])
    assert all(mib > 0 for mib in result["allocated_mib"].values())
    parts = result["dgpo_over_grpo_ours_seconds"]
    named = {part: parts[part] for part in parts if part not in ("grpo_ours", "whole", "rest")}
    assert abs(parts["whole"] - sum(named.values()) - parts["rest"]) < 1e-3
    assert parts["grpo_ours"] > 0
    assert named["reference forward"] > 0
    assert named["redistribution"] > 0


def test_train_step_by_live_share(tmp_path):
    found = tmp_path / "found.json"
    sizes = {"vocab-size": 300, "hidden-size": 64, "layers": 1, "batch-size": 5, "completion-length": 8}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    run("train_step", *options, "--live", "1.0", "0.4", "--repeats=1", "--device=cpu", "--save", str(found))
    whole, some = json.loads(found.read_text())["live"]
    assert (whole["share"], some["share"]) == (1.0, 0.4)
    assert set(some["dgpo_over"]) == {"dgpo", "grpo_scored", "grpo_ours"}


def test_train_step_with_a_hint(tmp_path):
    found = tmp_path / "found.json"
    sizes = {"vocab-size": 300, "hidden-size": 64, "layers": 1, "batch-size": 2, "completion-length": 8}
    options = [f"--{name}={value}" for name, value in sizes.items()]
    run("train_step", *options, "--prompt-length=6", "--hints", "--repeats=1", "--device=cpu", "--save", str(found))
    result = json.loads(found.read_text())["hints"]
    assert list(result) == ["with sampling", "after sampling"]
    for seconds in result.values():
        assert list(seconds) == ["grpo_ours", "dgpo", "hindsight"]
        assert all(each["median"] > 0 for each in seconds.values())


def be_skewed_rollout():
    """Count and time a skewed rollout, and print the result."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import train_step
    from _step_padding import skewed

    sizes = {"vocab_size": 300, "hidden_size": 64, "layers": 1, "batch_size": 2, "completion_length": 32}
    settings = {"prompt_length": 8, "dtype": "float32", "device": "cpu", "repeats": 1, "share": 1.0}
    print(json.dumps(skewed(argparse.Namespace(**sizes, **settings), train_step.build_trainer)))


def test_padding_of_a_skewed_rollout():
    (out,) = run_forked(be_skewed_rollout, ranks=None)
    found = json.loads(out.strip().splitlines()[-1])
    padded, cut = (found["counts"][name] for name in ("padded", "sorted"))
    assert cut["padding"] < padded["padding"] / 2
    assert cut["tokens"] - cut["padding"] == padded["tokens"] - padded["padding"]
    assert set(found["seconds"]) == {"padded", "sorted"}


def test_interval_coverage(tmp_path):
    found = tmp_path / "found.json"
    run("interval_coverage", "--exams=2", "--output", str(found))
    result = json.loads(found.read_text())
    assert result["exams"] == 2
    committed = json.loads((ROOT / "benchmarks" / "results" / "interval_coverage.json").read_text())
    assert list(result["coverage"]) == list(committed["coverage"])
    # The page's table has the columns of the first row.
    columns = list(next(iter(result["coverage"].values())))[1:]
    assert all(0 <= row[column] <= 1 for row in result["coverage"].values() for column in columns)


def test_report_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "lab" / "report"))
    from browser import find_chromium

    if find_chromium() is None:
        pytest.skip("no Chromium")
    found = tmp_path / "found.json"
    run("report_page", "--tokens=700", "--repeats=1", "--output", str(found))
    cases = json.loads(found.read_text())["cases"]
    assert [case["width"] for case in cases] == [390, 1400]
    assert all(case[name]["median"] > 0 for case in cases for name in ("first_paint", "usable", "more_tokens"))


def test_math_rewards(tmp_path):
    found = tmp_path / "found.json"
    sizes = ("--answers=20", "--alone=1", "--hanging-every=20", "--seconds=1", "--workers=1")
    run("math_rewards", *sizes, "--output", str(found))
    result = json.loads(found.read_text())
    assert (result["pool"]["answers"], result["pool_without_hanging_answers"]["answers"]) == (20, 19)
    assert result["pool"]["out_of_place"] == 0


def test_math_graders(tmp_path):
    found = tmp_path / "found.json"
    labelled = tmp_path / "labelled.jsonl"
    rows = [{"gold": "7", "completion": f"3 + 4 = {x}.\nAnswer: {x}", "correct": x == 7} for x in (7, 8)]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("math_graders", "--limit=6", "--labelled", str(labelled), "--output", str(found))
    result = json.loads(found.read_text())
    assert result["labelled"]["dgpo"]["false_negatives"] == result["labelled"]["dgpo"]["false_positives"] == 0
    assert set(result["spellings"]) >= {"dgpo", "math-verify"}
