"""Held-out accuracy is a mean over the completions that were scored, whatever the batch size and number of ranks."""

import json
from functools import partial

import pytest

from dgpo.lab.cli.main import main
from dgpo.lab.runs.files import read_jsonl
from process_groups import run_forked

REWARDS = """\
def right(completions, answer):
    return [float(gold == "0") for gold in answer]


def one_scored(completions, answer):
    return [1.0 if gold == "0" else None for gold in answer]
"""


@pytest.fixture
def nine(project, tmp_path):
    """Nine held-out prompts, of which one is right whatever the model says."""
    (tmp_path / "scores.py").write_text(REWARDS)
    for name, count in (("nine", 9), ("eight", 8)):
        rows = [{"question": f"no. {digit}?", "answer": str(digit)} for digit in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def words(directory, *more):
        common = ["--task_args.eval_file=nine.jsonl", "--rewards=[scores.py:right]", "--max_steps=1"]
        return ["train", str(project), *common, *more, f"--output_dir={directory}"]

    return words


def measured(directory, name="right"):
    line = next(line for line in read_jsonl(directory / "metrics.jsonl") if line["phase"] == "before")
    return line[f"eval_rewards/{name}/mean"], line[f"eval_rewards/{name}/prompts"], line["eval_prompts"]


@pytest.mark.parametrize("batch_size", [1, 2, 8, 9])
def test_one_of_nine_is_a_ninth_for_every_batch_size(nine, tmp_path, capsys, batch_size):
    assert main(nine(tmp_path / "run", f"--per_device_eval_batch_size={batch_size}")) == 0
    assert measured(tmp_path / "run") == (pytest.approx(1 / 9), 9, 9)
    assert "held-out accuracy before training: 0.111 (0.020 to 0.435)" in capsys.readouterr().out


def test_one_of_nine_is_a_ninth_on_two_ranks(nine, tmp_path):
    more = ["--per_device_eval_batch_size=2", "--per_device_train_batch_size=8", "--use_cpu=true"]
    run_forked(partial(main, nine(tmp_path / "run", *more)), ranks=2)
    assert measured(tmp_path / "run") == (pytest.approx(1 / 9), 9, 9)


def test_one_scored_of_eight_says_so(nine, tmp_path, capsys):
    more = ["--task_args.eval_file=eight.jsonl", "--rewards=[scores.py:one_scored]", "--per_device_eval_batch_size=4"]
    assert main(nine(tmp_path / "run", *more)) == 0
    assert measured(tmp_path / "run", "one_scored") == (1.0, 1, 8)
    out = capsys.readouterr().out
    assert "held-out accuracy before training: 1.000 (0.207 to 1.000) (1 of 8 prompts could be scored)" in out
