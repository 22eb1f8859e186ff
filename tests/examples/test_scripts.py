"""The scripts of `examples/` train, and what their docstrings promise can be run."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from dgpo import TokenStats, assign_credit
from dgpo.credit_log import read_credit_log
from dgpo.lab.cli.main import main
from dgpo.lab.tasks.forks import warm_up_model
from dgpo.rules import resolve
from examples import custom_reward, custom_rule, trl_script, watch_grpo

EXAMPLES = Path(trl_script.__file__).parent
FEW_STEPS = {"max_steps": 3, "per_device_train_batch_size": 16, "num_generations": 4, "disable_tqdm": True}


@pytest.fixture
def quick_warm_up(monkeypatch, tmp_path):
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "cache"))
    for module in (trl_script, custom_reward, watch_grpo):
        monkeypatch.setattr(
            module, "warm_up_model", lambda **options: warm_up_model(**options, steps=30, progress=False)
        )


def test_the_rule_gives_more_credit_to_improbable_tokens():
    stats = TokenStats(
        completion_mask=torch.tensor([[True, True, True, False]]),
        advantages=torch.tensor([1.0]),
        entropy=torch.zeros(1, 4),
        logps=torch.tensor([[-1.0, -3.0, -2.0, float("nan")]]),
        old_logps=torch.zeros(1, 4),
        vocab_size=5,
    )
    weights = assign_credit(stats, resolve(custom_rule.surprising, strength=0.5)).weights
    # x / mean x = 1/2, 3/2, 1
    torch.testing.assert_close(weights, torch.tensor([[0.75, 1.25, 1.0, 0.0]]))


def test_the_rule_has_ten_lines():
    source = Path(custom_rule.__file__).read_text().partition("@credit_rule")[2]
    assert source.count("\n") <= 10


def test_the_trl_script_trains_with_the_rule_of_the_file(quick_warm_up, tmp_path):
    assert len(trl_script.train(str(tmp_path), credit_log_steps=1, **FEW_STEPS)) == 3
    assert [entry.step for entry in read_credit_log(tmp_path)] == [1, 2, 3]


def test_the_watched_script_shows_groups_with_their_answers(quick_warm_up, tmp_path):
    assert len(watch_grpo.train(str(tmp_path), **FEW_STEPS)) == 3
    steps = read_credit_log(tmp_path)
    assert [entry.step for entry in steps] == [1, 3]
    for entry in steps:
        groups = [completion.group for completion in entry.completions]
        assert sorted(groups.count(group) for group in set(groups)) == [4, 4]
        assert all(completion.answer for completion in entry.completions)
        assert max(d for completion in entry.completions for d in completion.d) < 1e-6  # the model it starts from


def test_the_reward_function_scores_picks_and_is_logged(quick_warm_up, tmp_path):
    completions = ["ok 7 3 > 7 ; so 2 9 > 2 ; = 7 2", "7 9", "ok 7 3 > 7 ; = 7 9 9"]
    assert custom_reward.share_right(completions, ["7 9"] * 3) == [0.5, None, 1.0]
    assert len(custom_reward.train(str(tmp_path / "run"), **FEW_STEPS)) == 3


def test_the_command_in_the_rules_docstring_trains(monkeypatch, tmp_path):
    command = re.search(r"^    dgpo (train .*)$", custom_rule.__doc__, re.MULTILINE)[1]
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "cache"))
    model = warm_up_model(steps=20, progress=False)
    shorter = {"model_name_or_path": model, "output_dir": tmp_path / "run", "max_steps": 2, "eval_size": 8}
    shorter |= {"per_device_train_batch_size": 16, "save_strategy": "no"}
    assert main([*shlex.split(command), *(f"--{name}={value}" for name, value in shorter.items())]) == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["credit_rule"] == "examples/custom_rule.py:surprising"
    assert recipe["credit_options"] == {"strength": 0.3}


def test_the_rule_is_shown_for_any_text(monkeypatch, tmp_path):
    monkeypatch.chdir(EXAMPLES.parent)
    monkeypatch.setenv("DGPO_CACHE", str(tmp_path / "cache"))
    model, page, text = str(warm_up_model(steps=20, progress=False)), tmp_path / "page.html", tmp_path / "text.txt"
    text.write_text("ok 7 3 > 7 ; = 7")
    rule = ["--rule", "examples/custom_rule.py:surprising", "--options.strength", "0.3"]
    assert (
        main(["inspect", model, "--reference", model, "--prompt", "7 3 ?", "--text", str(text), *rule, "-o", str(page)])
        == 0
    )
    assert "examples/custom_rule.py:surprising" in page.read_text()


@pytest.mark.slow
def test_the_trl_script_learns(warmed_up, tmp_path):
    values = trl_script.train(str(tmp_path), disable_tqdm=True)
    assert sum(values[-5:]) > sum(values[:5]) + 5 * 0.25
