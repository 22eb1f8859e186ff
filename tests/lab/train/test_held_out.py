"""Held-out evaluation inside training: what is logged, and that the training does not notice."""

import json
import types
from functools import partial

import pytest

from dgpo.errors import RecipeError
from dgpo.lab.cli.main import main
from dgpo.lab.runs.files import read_jsonl
from dgpo.lab.train.held_out import HeldOutEvaluation
from process_groups import run_forked


@pytest.fixture(autouse=True)
def _warnings_as_they_were():
    import warnings

    with warnings.catch_warnings():
        yield


def train(tiny_model, recipe, directory, *more):
    words = [
        str(recipe),
        f"--model_name_or_path={tiny_model}",
        "--eval_size=4",
        f"--output_dir={directory}",
        *more,
    ]
    return main(["train", *words])


RECIPE = """\
task: forks
task_args: {num_forks: 1, size: 8}
model_name_or_path: forks
num_generations: 4
per_device_train_batch_size: 8
per_device_eval_batch_size: 4
num_generations_eval: 1
max_completion_length: 9
max_steps: 4
learning_rate: 1.0e-3
logging_steps: 1
save_strategy: "no"
eval_before_and_after: false
bf16: false
gradient_checkpointing: false
seed: 0
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("lora", [False, True])
def test_training_logs_the_held_out_figures_and_takes_the_same_steps(tiny_model, recipe, tmp_path, lora, capsys):
    peft = ["--use_peft", "--lora_r=2", "--lora_target_modules=all-linear"] if lora else []
    assert train(tiny_model, recipe, tmp_path / "plain", *peft) == 0
    held_out = ["--eval_task=forks", "--eval_every=2", "--eval_samples=4"]
    assert train(tiny_model, recipe, tmp_path / "watched", *peft, *held_out) == 0
    plain, watched = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("plain", "watched"))
    evaluations = [line for line in watched if "eval/avg@4" in line]
    assert [line["step"] for line in evaluations] == [2, 4]
    for line in evaluations:
        assert {"eval/avg@4", "eval/maj@4", "eval/pass@1", "eval/pass@2", "eval/pass@4"} <= line.keys()
        assert 0 <= line["eval/avg@4"] == line["eval/pass@1"] <= line["eval/pass@2"] <= line["eval/pass@4"] <= 1
        assert "reward" not in line  # the figures of the step are in its own line
    steps = [[line for line in lines if "loss" in line] for lines in (plain, watched)]
    assert [line["step"] for line in steps[1]] == [1, 2, 3, 4]
    for key in ("loss", "reward", "grad_norm", "completions/mean_length", "dgpo/hellinger_sq/mean"):
        assert [line.get(key) for line in steps[0]] == [line.get(key) for line in steps[1]], key


def train_on(world_size, tiny_model, recipe, directory):
    """Train in this many processes, which talk through gloo, and return the figures that are logged."""
    held_out = ["--eval_task=forks", "--eval_every=1", "--eval_samples=3", "--max_steps=2", "--learning_rate=0"]
    batch = [f"--per_device_train_batch_size={8 // world_size}", "--per_device_eval_batch_size=2", "--eval_size=5"]
    words = [str(recipe), f"--model_name_or_path={tiny_model}", f"--output_dir={directory}", *held_out, *batch]
    run_forked(partial(main, ["train", "--use_cpu=true", *words]), ranks=world_size)
    lines = [line for line in read_jsonl(directory / "metrics.jsonl") if "eval/avg@3" in line]
    return [{name: value for name, value in line.items() if name.startswith("eval/")} for line in lines]


def test_two_processes_share_the_work_and_log_the_figures_of_one(tiny_model, recipe, tmp_path):
    one, two = (train_on(world_size, tiny_model, recipe, tmp_path / str(world_size)) for world_size in (1, 2))
    assert len(one) == 2
    assert one == two
    assert 0 < one[0]["eval/truncated"] < 1  # the figures are not all zero


def test_a_model_that_fsdp_shards_is_refused():
    held_out = HeldOutEvaluation.__new__(HeldOutEvaluation)
    with pytest.raises(RecipeError, match="FSDP shards the model; leave eval_every out"):
        held_out.watch(types.SimpleNamespace(is_fsdp_enabled=True))


def test_a_step_without_a_task_is_refused(tiny_model, recipe, tmp_path, capsys):
    assert train(tiny_model, recipe, tmp_path / "run", "--eval_every=2") == 2
    assert "there is no eval_task" in capsys.readouterr().err
    assert train(tiny_model, recipe, tmp_path / "run", "--eval_every=2", "--eval_task=aime42") == 2
    assert "Did you mean 'aime2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_overlong_penalty_knows_the_length_of_the_recipe(tiny_model, recipe, tmp_path, capsys):
    more = ["--rewards=[task, soft_overlong, think_format]", "--reward_weights=[1.0, 0.5, 0.1]", "--max_steps=1"]
    assert train(tiny_model, recipe, tmp_path / "run", *more) == 0
    rows = [json.loads(line) for file in (tmp_path / "run" / "completions").iterdir() for line in file.open()]
    lengths = {len(row["completion"].split()) for row in rows}
    assert {row["rewards"]["soft_overlong"] for row in rows} <= {0.0, -1.0}  # 9 tokens, a buffer of 1
    assert lengths
    assert {row["rewards"]["think_format_reward"] for row in rows} == {0.0}
