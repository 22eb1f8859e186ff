"""What a dry run refuses although no data of the hub has been read."""

import shlex

import pytest

from dgpo.lab.cli.main import main

pytestmark = pytest.mark.usefixtures("few_packages")

# What no data has to be downloaded for, whatever the task is.
KNOWN_WITHOUT_THE_HUB = [
    ("--task nonsense", "there is no task 'nonsense'. "),
    ("--task quickstrat:x", "there is no task 'quickstrat:x'."),
    ("--task reasoning_gym:chian_sum", "Did you mean 'chain_sum'?"),
    ("--task nowhere/data.jsonl", "nowhere/data.jsonl does not exist, nor does its folder nowhere."),
    ("--task /nowhere/data", "/nowhere/data does not exist, nor does its folder /nowhere."),
    ("--model_name_or_path model/none", "there is a folder model here, and no folder none in it."),
    ("--model_name_or_path /nowhere/model", "there is no such folder."),
    ("--task owner/name --model_name_or_path ./none", "there is no such folder."),
    ("--task owner/name --model_name_or_path empty", "The model folder empty has no config.json that can be read"),
    ("--task owner/name --rewards '[nothing]'", "there is no reward 'nothing'."),
    ("--task owner/name --rewards '[rewards.py:scor]'", "rewards.py has no function 'scor'. Did you mean 'score'?"),
    ("--task owner/name --reward_options.x.y 1", "reward_options are given for 'x', and the recipe names no rewards."),
    ("--task owner/name --task_args.eval_file none.jsonl", "none.jsonl does not exist."),
    ("--task owner/name --task_args.splt x", "task owner/name has no option 'splt'. Did you mean 'split'?"),
    ("--task owner/name --task_args.split 5", "split is 5; it must be a text"),
    ("--task owner/name --task_args.seed 5", "task_args holds seed; it is a key of the recipe itself."),
    ("--eval_task aime42", "command line: eval_task: there is no task 'aime42'. Did you mean 'aime25'?"),
    ("--eval_task aime42 --eval_every 5 --task owner/name", "eval_task: there is no task 'aime42'."),
    ("--eval_task none.jsonl", "none.jsonl does not exist."),
    ("--credit_rule none.py:rule", "There is no file none.py."),
    (
        "--accelerator_config none.json",
        "TRL refuses this configuration: [Errno 2] No such file or directory: 'none.json'",
    ),
]


@pytest.mark.parametrize(("words", "reason"), KNOWN_WITHOUT_THE_HUB, ids=[words for words, _ in KNOWN_WITHOUT_THE_HUB])
def test_the_dry_run_refuses_what_is_not_there(folder, monkeypatch, capsys, words, reason):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    assert main(["train", "own.yaml", *shlex.split(words), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "column answer, compared with another prompt's hint"),
        ("--hint peer --hint_control plain", "a right completion of the prompt, compared with the plain prompt"),
        ("--hint prompt --hint_control answer", "column prompt, compared with column answer"),
    ],
)
def test_the_dry_run_says_what_the_reference_is_shown(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder)
    assert main(["train", "own.yaml", "--credit_rule", "hindsight", *shlex.split(words), "--dry-run"]) == 0
    assert f" {said}\n" in capsys.readouterr().out


def test_the_dry_run_of_a_task_of_the_hub_reads_nothing_of_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["train", "own.yaml", "--task", "owner/name", "--eval_task", "aime24", "--dry-run"]) == 0
    assert "owner/name (not read: it may have to be downloaded)" in capsys.readouterr().out
