"""`dgpo train` from end to end with a very small model: it trains, fails, resumes, and loses nothing."""

import dataclasses
import errno
import json
from pathlib import Path

import pytest

import dgpo.lab.tasks
from dgpo.lab.cli.main import main
from dgpo.lab.runs.directory import RunDirectory
from dgpo.lab.runs.files import read_jsonl

RECIPES = Path(__file__).parents[3] / "recipes"
STEPS = 4


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model that speaks a little of the language of forks, made in a second."""
    from dgpo.lab.tasks.forks import warm_up_model

    patch = pytest.MonkeyPatch()
    patch.setenv("DGPO_CACHE", str(tmp_path_factory.mktemp("cache")))
    try:
        yield warm_up_model(num_forks=1, steps=30, batch_size=16, hidden_size=16, num_layers=1, progress=False)
    finally:
        patch.undo()


@pytest.fixture
def words(tiny_model):
    """The quickstart, cut down: 2 prompts x 4 completions a step, a checkpoint after every second step."""

    def build(directory, *more):
        return [
            "train",
            str(RECIPES / "quickstart.yaml"),
            f"--model_name_or_path={tiny_model}",
            "--task_args={num_forks: 1, size: 8}",
            "--max_steps=-1",  # 8 prompts, 2 a step: 4 steps
            "--num_train_epochs=1",
            "--eval_size=4",
            "--num_generations=4",
            "--per_device_train_batch_size=8",
            "--per_device_eval_batch_size=4",
            "--max_completion_length=9",
            "--save_steps=2",
            f"--output_dir={directory}",
            *more,
        ]

    return build


@pytest.fixture
def failing_reward(monkeypatch):
    """Makes the task's reward do something else from its n-th call on."""

    def install(call, action):
        load = dgpo.lab.tasks.load_task
        calls = []

        def load_failing(*args, **kwargs):
            task = load(*args, **kwargs)
            score, *others = task.reward_funcs

            def forks_reward(completions, **columns):
                calls.append(1)
                if len(calls) >= call:
                    return action(completions)
                return score(completions=completions, **columns)

            return dataclasses.replace(task, reward_funcs=(forks_reward, *others))

        monkeypatch.setattr(dgpo.lab.tasks, "load_task", load_failing)
        return lambda: monkeypatch.setattr(dgpo.lab.tasks, "load_task", load)

    return install


def phases_and_steps(directory):
    return [(line["phase"], line["step"]) for line in read_jsonl(directory / "metrics.jsonl")]


WHOLE = [("before", 0), *(("train", step) for step in range(1, STEPS + 1)), ("after", STEPS)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One complete run that several tests look at."""
    return {"directory": tmp_path_factory.mktemp("finished") / "run"}


def complete_run(finished, words, capsys):
    if "out" not in finished:
        assert main(words(finished["directory"])) == 0
        finished["out"] = capsys.readouterr().out
    return finished["directory"], finished["out"]


def test_a_run_leaves_everything_behind(finished, words, capsys):
    run, out = complete_run(finished, words, capsys)
    assert sorted(path.name for path in run.iterdir()) == [
        "README.md",
        "checkpoint-2",
        "checkpoint-4",
        "completions",
        "credit",
        "curve.png",
        "environment.json",
        "final",
        "metrics.jsonl",
        "recipe.yaml",
        "summary.json",
    ]
    # The trainer's own count of steps agrees with the one the plan announces (see test_main).
    assert phases_and_steps(run) == WHOLE
    train = [line for line in read_jsonl(run / "metrics.jsonl") if line["phase"] == "train"]
    assert {"loss", "grad_norm", "reward"} <= set(train[0])
    for line in train:  # where no completion of a step has an advantage there is no credit to measure
        measured = {"dgpo/effective_share", "dgpo/hellinger_sq/mean"} <= set(line)
        assert measured == (line["frac_reward_zero_std"] < 1)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["held_out_accuracy"]["before"]["prompts"] == 4
    assert 0 <= summary["held_out_accuracy"]["after"]["low"] <= summary["held_out_accuracy"]["after"]["high"] <= 1
    assert 0 < summary["generation_share"] < 1
    assert (run / "final" / "model.safetensors").is_file()
    assert "held-out accuracy" in out
    assert "->" in out
    assert "training 4/4" in out
    assert "{'loss'" not in out  # transformers' own printing


def test_completions_are_kept_with_rewards_and_advantages(finished, words, capsys):
    run, _ = complete_run(finished, words, capsys)
    files = sorted((run / "completions").iterdir())
    assert [file.name for file in files] == [f"step-{step:06d}.jsonl" for step in range(1, STEPS + 1)]
    rewards = {line["step"]: line["reward"] for line in read_jsonl(run / "metrics.jsonl") if "reward" in line}
    for file in files:
        rows = read_jsonl(file)
        assert len(rows) == 8
        assert len({row["prompt"] for row in rows}) == 2
        scores = [row["rewards"]["forks_reward"] for row in rows]
        assert sum(scores) / 8 == pytest.approx(rewards[rows[0]["step"]])
        assert all(isinstance(row["completion"], str) for row in rows)
        assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-4)


def test_a_finished_run_is_not_overwritten_nor_resumed(finished, words, capsys):
    run, _ = complete_run(finished, words, capsys)
    before = (run / "metrics.jsonl").read_bytes()
    assert main(words(run)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 2
    assert "is complete (4 steps)" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--max_steps=9", "--tau=0.25"]) == 2
    assert "tau: not set in the checkpoint's recipe, 0.25 now" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_reward_that_raises_costs_one_step_and_resuming_makes_up_for_it(
    finished, words, capsys, tmp_path, failing_reward
):
    whole, _ = complete_run(finished, words, capsys)
    run = tmp_path / "run"

    def fail(completions):
        raise ZeroDivisionError("no digits")

    # One call for the held-out prompts, then one a step: the fifth call is step 4.
    mend = failing_reward(5, fail)
    assert main(words(run)) == 1
    err = capsys.readouterr().err
    assert "The run failed after step 3" in err
    assert "'forks_reward' failed on completion 0: ZeroDivisionError: no digits" in err
    assert f"dgpo train --resume {run}" in err
    assert "Traceback" not in err
    assert phases_and_steps(run) == WHOLE[:4]
    assert len(read_jsonl(run / "completions" / "step-000003.jsonl")) == 8
    assert (run / "failed_rewards.jsonl").is_file()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"

    mend()
    torn = run / "checkpoint-3"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    assert main(["train", "--resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Passing over checkpoint-3: trainer_state.json is missing" in out
    assert f"Resuming from {run / 'checkpoint-2'}, step 2" in out
    # Step 3 was made twice and stands there once; the accuracy before training was not measured again.
    assert phases_and_steps(run) == WHOLE
    assert json.loads((run / "environment.json").read_text())["resumed"][0]["from"] == "checkpoint-2"
    weights = [path / "final" / "model.safetensors" for path in (whole, run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_ctrl_c_says_how_to_go_on(words, capsys, tmp_path, failing_reward):
    def interrupt(completions):
        raise KeyboardInterrupt

    failing_reward(4, interrupt)
    run = tmp_path / "run"
    assert main(words(run)) == 130
    err = capsys.readouterr().err
    assert err == (
        f"dgpo: Interrupted after step 2. Metrics, completions and checkpoint-2 are kept; continue with: "
        f"dgpo train --resume {run}\n"
    )
    assert phases_and_steps(run) == WHOLE[:3]


def test_a_run_killed_before_its_last_evaluation_makes_no_step_too_many(words, tmp_path, failing_reward):
    def interrupt(completions):
        raise KeyboardInterrupt

    mend = failing_reward(4, interrupt)  # before, two steps, and then the evaluation after them
    run = tmp_path / "run"
    assert main(words(run, "--max_steps=2")) == 130
    mend()
    assert main(["train", "--resume", str(run)]) == 0
    assert phases_and_steps(run) == [*WHOLE[:3], ("after", 2)]
    # Another run's second step would have another learning rate, which falls to 0 over all steps.
    weights = [run / name / "model.safetensors" for name in ("checkpoint-2", "final")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_full_disk_is_one_message(words, capsys, tmp_path, monkeypatch):
    append = RunDirectory.append_metrics

    def full(self, record):
        if record["step"] == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
        append(self, record)

    monkeypatch.setattr(RunDirectory, "append_metrics", full)
    run = tmp_path / "run"
    assert main(words(run)) == 1
    err = capsys.readouterr().err
    assert "The run failed after step 3: No space left on device (metrics.jsonl)" in err
    assert "checkpoint-2 are kept" in err
    assert phases_and_steps(run) == WHOLE[:3]
    assert "No space left" in (run / "error.txt").read_text()


def test_nan_in_the_loss_names_the_step_and_keeps_the_checkpoint(words, capsys, tmp_path, monkeypatch):
    from trl import GRPOTrainer

    compute = GRPOTrainer._compute_loss

    def poisoned(self, model, inputs):
        loss = compute(self, model, inputs)
        return loss * float("nan") if self.state.global_step == 2 and model.training else loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", poisoned)
    monkeypatch.setattr("dgpo.engines.trl.compat.hook_differences", list)  # which would name it
    run = tmp_path / "run"
    assert main(words(run)) == 1
    err = capsys.readouterr().err
    assert "The run failed after step 2" in err
    assert "step 3" in err
    assert "checkpoint-2 are kept" in err
    assert not (run / "final").exists()
    assert len(read_jsonl(tmp_path / "run" / "completions" / "step-000003.jsonl")) == 8  # of the step that failed


def test_a_model_that_is_not_there_leaves_no_directory(words, capsys, tmp_path):
    run = tmp_path / "run"
    assert main(words(run, "--model_name_or_path=nobody/nothing")) == 2
    assert "The model nobody/nothing cannot be loaded" in capsys.readouterr().err
    assert not run.exists()


def test_bad_weights_and_options_are_refused_before_the_directory_is_made(words, capsys, tmp_path):
    run = tmp_path / "run"
    assert main(words(run, "--reward_weights=[1, 2]")) == 2
    assert "reward_weights has 2 numbers, and there are 1 reward functions (forks_reward)" in capsys.readouterr().err
    assert main(words(run, "--task_args.num_frks=2")) == 2
    assert "Did you mean 'num_forks'?" in capsys.readouterr().err
    assert not run.exists()


def test_lora_and_no_held_out_prompts(words, capsys, tmp_path):
    run = tmp_path / "run"
    more = ["--eval_size=0", "--use_peft", "--lora_target_modules=[q_proj]", "--lora_r=2", "--lora_dropout=0"]
    assert main(words(run, *more, "--completions_every=0", "--num_iterations=2", "--max_steps=2")) == 0
    assert phases_and_steps(run) == WHOLE[1:3]
    assert json.loads((run / "final" / "adapter_config.json").read_text())["target_modules"] == ["q_proj"]
    assert (run / "final" / "adapter_model.safetensors").is_file()
    assert not (run / "completions").exists()
    assert "held-out" not in capsys.readouterr().out


@pytest.mark.parametrize(("logging_steps", "kept_at"), [(1, [1, 3]), (2, [2, 4])])
def test_completions_of_one_sampling_are_written_once(words, tmp_path, logging_steps, kept_at):
    # Two updates on each sampling: steps 1 and 2 share one, 3 and 4 the next; held-out prompts are sampled in between.
    more = ["--num_iterations=2", "--max_steps=4", "--eval_strategy=steps", "--eval_steps=1"]
    run = tmp_path / "run"
    assert main(words(run, *more, f"--logging_steps={logging_steps}")) == 0
    rows = {int(file.stem[5:]): read_jsonl(file) for file in sorted((run / "completions").iterdir())}
    assert list(rows) == kept_at
    rewards = {line["step"]: line["reward"] for line in read_jsonl(run / "metrics.jsonl") if "reward" in line}
    for step in kept_at:
        assert sum(row["rewards"]["forks_reward"] for row in rows[step]) / 8 == pytest.approx(rewards[step])
