"""docs/tutorial.md is followed: its files are written, its commands are run, on a model of some thousand parameters."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dgpo.lab.cli.main import main

sys.path.insert(0, str(Path(__file__).parent))
from toy_model import make_model

DOCS = Path(__file__).parents[2] / "docs"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What a toy needs in place of what SmolLM2 needs.
TOY = ["--dtype", "float32", "--use_cpu", "true", "--num_threads", "1"]
LEARNS = ["--use_peft", "false", "--learning_rate", "5e-4", "--max_steps", "250", "--per_device_train_batch_size", "64"]
# So many that what it learns lies far beyond the interval on any processor: each rounds to another path.
LEARNS += ["--eval_size", "80"]
SHORT = ["--max_steps", "2"]


def blocks(page, language):
    """The titled code blocks of a page, by title."""
    text = (DOCS / page).read_text()
    return dict(re.findall(rf'^```{language} title="([^"]+)"\n(.*?)^```$', text, re.MULTILINE | re.DOTALL))


def commands(page, title):
    return [shlex.split(line, comments=True) for line in blocks(page, "sh")[title].splitlines()]


def held_out(run):
    return json.loads((run / "summary.json").read_text())["held_out_accuracy"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """An empty folder in which the files of the tutorial were written, and the toy that takes SmolLM2's place."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language in ("python", "yaml"):
            for name, text in blocks("tutorial.md", language).items():
                (folder / name).write_text(text)
        assert commands("tutorial.md", "step 1") == [["python", "make_data.py"]]
        runpy.run_path("make_data.py")
        rows = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
        make_model(folder / "toy", [(row["question"], row["answer"]) for row in rows])
    return folder


@pytest.fixture
def follow(project, monkeypatch):
    """Runs the commands of a step, `dgpo train` with further options."""
    monkeypatch.chdir(project)

    def run(title, *options, page="tutorial.md"):
        for program, *words in commands(page, title):
            assert program == "dgpo"
            words = ["toy" if word == MODEL else word for word in words]
            if words[0] == "train" and "--resume" not in words:
                words += ["--model_name_or_path", "toy", *TOY, *options]
            assert main(words) == 0, words

    return run


def test_the_dry_run_says_what_was_read(follow, capsys):
    follow("step 3")
    shown = capsys.readouterr().out
    assert "156 training prompts, 40 held out" in shown
    assert "last_number" in shown


@pytest.mark.slow
def test_the_project_learns_beyond_its_interval_and_is_compared(follow, project, capsys):
    torch.manual_seed(0)
    follow("step 4", *LEARNS)
    accuracy = held_out(project / "runs" / "sums")
    assert accuracy["before"]["high"] < accuracy["after"]["low"]
    assert (project / "runs" / "sums" / "report.html").is_file()

    # The credit log of this run answers what another tau would have given.
    shares = project / "shares.py"
    shares.write_text(blocks("how-to/choose-tau.md", "python")["shares.py"])
    ((program, _, _),) = commands("how-to/choose-tau.md", "shares")
    done = subprocess.run([sys.executable, shares, "runs/sums"], capture_output=True, text=True, check=True)
    assert program == "python"
    printed = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert printed == sorted(printed, reverse=True)  # a smaller tau is sharper
    assert 0 < printed[-1] < printed[0] <= 1

    capsys.readouterr()
    follow("evaluate")
    assert "evals/after" in capsys.readouterr().out

    steps = {"--max_steps": "252"}
    for program, *words in commands("tutorial.md", "step 6"):
        assert program == "dgpo"
        if words[0] == "train" and "--resume" not in words:
            words += ["--model_name_or_path", "toy", *TOY, *SHORT]
        words = [steps.get(before, word) for before, word in zip(["", *words], words, strict=False)]
        assert main(words) == 0, words
    assert (project / "both.html").is_file()
    assert json.loads((project / "runs" / "sums" / "summary.json").read_text())["steps"] == 252


def test_the_reward_of_the_tutorial_scores_texts_and_messages(project):
    score = runpy.run_path(str(project / "my_rewards.py"))["score"]
    completions = ["7", "It is 7.", "8", "", [{"role": "assistant", "content": "7"}]]
    assert score(completions, ["7"] * 5) == [1.0, 0.5, 0.0, 0.0, 1.0]


def test_the_reward_of_the_tutorial_trains(follow, project):
    follow("step 5", *SHORT)
    lines = [json.loads(line) for line in (project / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert any("rewards/score/mean" in line for line in lines)


def test_the_reward_for_verl_scores(project):
    score = runpy.run_path(str(project / "my_verl_reward.py"))["compute_score"]
    assert score("sums", " 7\n", "7", None, answer_format="dapo") == {"score": 1.0, "acc": True}
    assert score("sums", "8", "7")["acc"] is False


@pytest.mark.slow
def test_two_processes_are_launched_as_the_page_says(project):
    (command,) = commands("how-to/multi-gpu.md", "two processes on a CPU")
    assert command[0] == "torchrun"
    command = ["sums.yaml" if word == "RECIPE" else word for word in command]
    options = ["--model_name_or_path", "toy", *TOY, *SHORT, "--use_peft", "false", "--output_dir", "runs/two"]
    launch = [str(Path(sys.executable).with_name("torchrun")), *command[1:], *options]
    done = subprocess.run(launch, cwd=project, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert held_out(project / "runs" / "two")["after"]["prompts"] == 40
    environment = json.loads((project / "runs" / "two" / "environment.json").read_text())
    assert environment["num_processes"] == 2
