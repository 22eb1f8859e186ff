"""What an evaluation is continued with: settings that change a score or a completion are told apart, and stored."""

import json

import pytest

from dgpo.lab.cli.commands import parse_eval as parse
from dgpo.lab.cli.main import main


def gym(model, output, *more):
    """Eight sums, so that the size of the data set is small and quickly made."""
    return [
        "eval",
        str(model),
        "--task=reasoning_gym:chain_sum",
        "--limit=2",
        "--n=1",
        "--max-tokens=2",
        f"--output={output}",
        *more,
    ]


@pytest.mark.parametrize("changed", ["{size: 8, answer_extraction: tag}", "{size: 8, rewards: [think_format]}"])
def test_another_scorer_does_not_go_on_with_the_old_scores(tiny_model, tmp_path, capsys, changed):
    assert main(gym(tiny_model, tmp_path / "a", "--task-args={size: 8}")) == 0
    settings = json.loads((tmp_path / "a" / "settings.json").read_text())
    assert settings["task_args"] == {"size": 8}
    assert main(gym(tiny_model, tmp_path / "a", "--task-args={size: 8}")) == 0
    assert main(gym(tiny_model, tmp_path / "a", f"--task-args={changed}")) == 2
    assert "holds an evaluation with task_args: {'size': 8}" in capsys.readouterr().err


def test_options_of_the_task_name_the_default_folder(tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = gym(tiny_model, "x")[:-1]
    for extraction in ("whole", "tag", "tag"):
        assert main([*asked, f"--task-args={{size: 8, answer_extraction: {extraction}}}"]) == 0
    assert len(list((tmp_path / "evals").iterdir())) == 2


def test_of_a_protocol_only_what_applies_is_stored(tiny_model, tmp_path, capsys):
    """Forks asks in its own words and scores by itself; the protocol decides the sampling alone."""
    for protocol, said in (("dapo", True), ("plain", False)):
        more = [f"--protocol={protocol}", "--n=1", "--max-tokens=2", "--limit=2", "--task-args={num_forks: 1}"]
        assert main(["eval", str(tiny_model), "--task=forks", *more, f"--output={tmp_path / protocol}"]) == 0
        settings = json.loads((tmp_path / protocol / "settings.json").read_text())
        assert (settings["prompt_template"], settings["answer_format"]) == (None, "task")
        assert settings["top_p"] == {"dapo": 0.7, "plain": 1.0}[protocol]
        line = f"forks brings its own prompts and scorer; of {protocol}, only the sampling applies."
        assert (line in capsys.readouterr().out) == said


def test_underscores_are_hyphens_in_names_and_stay_in_values():
    options = parse(["my_model", "--task=a_b.jsonl", "--top_p=0.9", "--max_tokens", "5", "--task_args={num_forks: 2}"])
    assert (options.model, options.task, options.top_p, options.max_tokens) == ("my_model", "a_b.jsonl", 0.9, 5)
    assert options.task_args == {"num_forks": 2}


def test_every_option_is_in_the_help(capsys):
    assert main(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    of_a_run = {"held_out", "eval_size", "task_seed"}  # what --run gives
    known = vars(parse(["m", "--task=t"])).keys() - {"model", *of_a_run}
    assert "--run" in shown
    assert [name for name in known if f"--{name.replace('_', '-')}" not in shown] == []
