"""`dgpo compare`: what it refuses before any work, and evaluations of other problems."""

import json
import subprocess
import sys

import pytest

from dgpo.lab.cli.main import main


def evaluated(model, output, *more):
    words = ["eval", str(model), "--task=forks", "--task-args={num_forks: 1}", "--max-tokens=3", f"--output={output}"]
    assert main([*words, "--limit=3", "--n=2", *more]) == 0
    return str(output)


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    return evaluated(tiny_model, tmp_path_factory.mktemp("evals") / "a")


def test_other_problems_under_the_same_numbers_are_refused(tiny_model, folder, tmp_path, capsys):
    other = evaluated(tiny_model, tmp_path / "b", "--seed=1")
    assert main(["compare", folder, other]) == 2
    said = capsys.readouterr().err
    assert "were not asked the same problems" in said
    assert said.count("\n") == 1


def test_older_evaluations_are_compared_by_their_gold_answers(tiny_model, folder, tmp_path, capsys):
    older = evaluated(tiny_model, tmp_path / "b")
    samples = tmp_path / "b" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:
        del row["digest"]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["compare", folder, older]) == 0
    assert "Note: of 3 problems only the gold answers could be compared" in capsys.readouterr().out


def test_different_numbers_of_completions_are_noted(tiny_model, folder, tmp_path, capsys):
    assert main(["compare", folder, evaluated(tiny_model, tmp_path / "b", "--n=3")]) == 0
    out = capsys.readouterr().out
    assert "Note: maj is left out" in out
    assert "\nmaj " not in out


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("--output={}/none/a.json", "there is no folder"),
        ("--plot={}/none/a.png", "there is no folder"),
        ("--output={}", "or it is one itself"),
        ("--plot={}/a.foo", "a.foo: a picture ends in one of ."),
    ],
)
def test_targets_that_cannot_be_written_are_refused_first(folder, tmp_path, capsys, target, complaint):
    assert main(["compare", folder, folder, target.format(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_damaged_folders_are_one_clear_line(tiny_model, folder, tmp_path, capsys):
    broken = evaluated(tiny_model, tmp_path / "b")
    whole = (tmp_path / "b" / "samples.jsonl").read_bytes()
    lines = whole.split(b"\n")
    for content, complaint in (
        (whole[:-20], "is not complete: 5 of 6"),
        (b"\n".join([*lines[:2], b"\0" * 40, *lines[3:]]), "line 3, is damaged"),
    ):
        (tmp_path / "b" / "samples.jsonl").write_bytes(content)
        capsys.readouterr()
        assert main(["compare", folder, broken]) == 2
        said = capsys.readouterr().err
        assert complaint in said
        assert said.count("\n") == 1
    (tmp_path / "b" / "settings.json").write_text("{}")
    assert main(["compare", folder, broken]) == 2
    assert "does not say how many problems" in capsys.readouterr().err


def test_comparing_and_reporting_load_neither_torch_nor_trl(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"phase": "train", "step": 1, "reward": 0.5}\n')
    code = f"""
import sys
from dgpo.lab.cli.main import main
assert main(["compare", {folder!r}, {folder!r}]) == 0
assert main(["report", "run"]) == 0
heavy = {{"torch", "trl", "transformers", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)
