"""The files of a run: nothing lost, nothing twice, nobody's name."""

import json
import math
import resource
from pathlib import Path

import pytest

from dgpo.errors import RecipeError
from dgpo.lab.runs import environment
from dgpo.lab.runs.directory import RunDirectory
from dgpo.lab.runs.files import read_jsonl
from dgpo.lab.train.recipe import load_recipe


def test_metrics_after_the_checkpoint_are_cut(tmp_path):
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 0, "phase": "before", "eval_reward": 0.1})
    for step in range(1, 8):
        run.append_metrics({"step": step, "phase": "train", "reward": step / 10})
        run.write_completions(step, [{"step": step, "completion": "x"}])
    run.append_metrics({"step": 4, "phase": "after", "eval_reward": 0.9})
    with run.metrics_path.open("a") as file:
        file.write('{"step": 8, "rew')  # a kill cut this line off
    (tmp_path / "final").mkdir()
    run.write_summary({"status": "complete"})
    run.cut_to(4)
    assert [(line["step"], line["phase"]) for line in run.read_metrics()] == [
        (0, "before"),
        *((step, "train") for step in range(1, 5)),
    ]
    assert all(json.loads(line) for line in run.metrics_path.read_text().splitlines())
    assert sorted(file.name for file in (tmp_path / "completions").iterdir()) == [
        f"step-{step:06d}.jsonl" for step in range(1, 5)
    ]
    assert not (tmp_path / "final").exists()
    assert not (tmp_path / "summary.json").exists()


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1, "loss": math.nan, "grad_norm": math.inf, "reward": 0.5})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "grad_norm": None, "reward": 0.5}]


def test_a_full_disk_leaves_no_half_file(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_summary({"status": "first"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))  # bytes a file: what a full disk does to a write
    try:
        with pytest.raises(OSError, match="too large"):
            run.write_summary({"status": "second"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert json.loads((tmp_path / "summary.json").read_text()) == {"status": "first"}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


def test_a_used_directory_is_refused_with_what_to_do(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.refuse_if_used()
    (tmp_path / "run").mkdir()
    run.refuse_if_used()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match="holds no checkpoint to resume from"):
        run.refuse_if_used()
    (tmp_path / "run" / "checkpoint-5").mkdir()
    with pytest.raises(RecipeError, match="holds no checkpoint to resume from"):
        run.refuse_if_used()  # it was being written


def test_withdrawing_spares_what_was_measured(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    (run.path / "recipe.yaml").write_text("task: forks\n")
    run.append_metrics({"step": 1})
    run.withdraw()
    assert (run.path / "recipe.yaml").exists()
    run.metrics_path.unlink()
    run.withdraw()
    assert not run.path.exists()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("dgpo train recipes/a.yaml --tau 1/2", "dgpo train recipes/a.yaml --tau 1/2"),
        ("dgpo train /home/ada/x/a.yaml", "dgpo train .../a.yaml"),
        ("dgpo train --output_dir=/scratch/ada/run", "dgpo train --output_dir=.../run"),
        ("dgpo train '/home/ada/my recipe.yaml'", "dgpo train '.../my recipe.yaml'"),
        ("dgpo train ~/a.yaml", "dgpo train .../a.yaml"),
        ("dgpo train --model_name_or_path owner/model", "dgpo train --model_name_or_path owner/model"),
    ],
)
def test_the_command_names_no_user(command, shown):
    assert environment._anonymous(command) == shown


def test_the_working_directory_is_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert environment._anonymous(f"dgpo train {tmp_path}/a.yaml") == "dgpo train ./a.yaml"


def test_the_environment_names_versions_and_every_resumed_run(tmp_path):
    run = RunDirectory(tmp_path)
    facts = {"seed": 3, "num_processes": 2}
    run.write_environment(**facts, command=["dgpo", "train", "a.yaml"], resumed_from=None)
    run.write_environment(**facts, command=["dgpo", "train", "--resume"], resumed_from="checkpoint-5")
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written["command"] == "dgpo train a.yaml"
    assert {"dgpo", "torch", "trl", "transformers"} <= set(written["versions"])
    assert (written["seed"], written["num_processes"]) == (3, 2)
    assert written["num_threads"] >= 1
    assert [again["from"] for again in written["resumed"]] == ["checkpoint-5"]
    assert str(Path.home()) not in json.dumps(written).replace('"/', '"')


def test_the_recipe_in_the_directory_is_the_resolved_one(tmp_path, recipe_file, schema):
    run = tmp_path / "run"
    text = f"task: forks\nmodel_name_or_path: forks\ntau: 0.1\ninert_warning_steps: 50\noutput_dir: {run}\n"
    recipe = load_recipe(recipe_file(text), ["--learning_rate", "1e-4"], schema)
    RunDirectory(tmp_path / "run").write_recipe(recipe.to_store())
    again = load_recipe(tmp_path / "run" / "recipe.yaml", [], schema)
    # inert_warning_steps has its default, the directory is where the file lies, and the seed is always written down.
    assert again.values == {
        "task": "forks",
        "model_name_or_path": "forks",
        "tau": 0.1,
        "learning_rate": 1e-4,
        "seed": 42,
    }
