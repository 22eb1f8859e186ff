"""The command line itself: help, exit codes, and what it does not load."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from dgpo.errors import (
    ConfigError,
    DataError,
    DgpoError,
    RecipeError,
    RewardError,
    TrainingError,
    UnsupportedVersionError,
)
from dgpo.lab.cli.main import main


def run_python(code, cwd, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


def test_help_loads_nothing_heavy(tmp_path):
    code = """
        import sys, dgpo
        before = set(sys.modules)
        from dgpo.lab.cli.main import main
        for words in ("--help", "train --help", "eval --help", "inspect --help", "tasks", "--version", ""):
            assert main(words.split()) == 0
        heavy = {"torch", "trl", "transformers", "datasets", "accelerate", "peft", "matplotlib", "rich", "yaml"}
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert not heavy & loaded, heavy & loaded
        assert not {"trl", "transformers", "datasets"} & set(sys.modules)
    """
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_help_names_only_fields_that_exist_with_their_defaults(schema, capsys):
    assert main(["train", "--help"]) == 0
    knobs = capsys.readouterr().out.partition("DGPO's knobs")[2].partition("The run directory")[0]
    found = 0
    for line in knobs.splitlines():
        match = re.match(r"  ([a-z_0-9]+) +(\S+) {2,}", line)
        if match and match[1] in schema and schema[match[1]].default not in (None, {}):
            default = schema[match[1]].default
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert float(match[2]) == default if isinstance(default, float) else match[2] == shown, line
            found += 1
    assert found >= 20
    unknown = [name for name in re.findall(r"^  ([a-z_0-9]+) {2,}", knobs, re.M) if name not in schema]
    assert unknown == []


def test_help_all_lists_every_field(schema, capsys):
    assert main(["train", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert [name for name in schema if f"\n  {name}: " not in text] == []
    assert "  tau: a number (or null); default null" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("no"), 2),
        (ConfigError("no"), 2),
        (DataError("no"), 2),
        (UnsupportedVersionError("no"), 2),
        (RewardError("no"), 1),
        (TrainingError("no"), 1),
        (DgpoError("no"), 1),
        (KeyboardInterrupt("no"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(monkeypatch, capsys, error, code):
    def fail(request):
        raise error

    monkeypatch.setattr("dgpo.lab.train.train.train", fail)
    assert main(["train", "x.yaml"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dgpo: ")
    assert "Traceback" not in captured.err


def test_an_unknown_command_is_refused(capsys):
    assert main(["trian", "x.yaml"]) == 2
    assert "Did you mean 'dgpo train'?" in capsys.readouterr().err
    assert main(["recipes/quickstart.yaml"]) == 2
    assert "`dgpo train recipes/quickstart.yaml`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "eval", "compare", "report", "inspect"])
def test_a_command_without_words_shows_its_help_and_has_done_nothing(capsys, command):
    assert main([command]) == 2
    shown = capsys.readouterr().out
    for words in (["help", command], [command, "--help"]):
        assert main(words) == 0
        assert capsys.readouterr().out == shown


def test_the_words_are_sorted(monkeypatch):
    asked = []
    monkeypatch.setattr("dgpo.lab.train.train.train", lambda request: asked.append(request) or 0)
    main(["train", "a.yaml", "--tau", "-1", "--bf16", "--resume", "runs/x", "--dry-run=full"])
    main(["train", "--resume", "a.yaml", "--output_dir=d"])
    main(["train", "--resume=runs/x"])
    first, second, third = asked
    assert (str(first.recipe), first.overrides) == ("a.yaml", ["--tau", "-1", "--bf16"])
    assert (str(first.resume_dir), first.dry_run) == ("runs/x", "full")
    assert (str(second.recipe), second.resume, second.resume_dir) == ("a.yaml", True, None)
    assert (third.recipe, str(third.resume_dir)) == (None, "runs/x")


def test_the_command_that_is_gone_names_the_one_in_its_place(capsys):
    assert main(["prepare", "HuggingFaceTB/SmolLM2-135M-Instruct"]) == 2
    assert "`make smollm2`" in capsys.readouterr().err


DRY_RUN = """
    import sys
    import transformers, trl.trainer.grpo_trainer as grpo
    import dgpo.lab.tasks.forks as forks

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    transformers.PreTrainedModel.__init__ = refuse
    transformers.PreTrainedModel.from_pretrained = classmethod(refuse)
    grpo.create_model_from_path = refuse
    forks.warm_up_model = refuse
    from dgpo.lab.cli.main import main
    sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_a_dry_run_loads_no_model_and_writes_nothing(tmp_path, recipe_file):
    from pathlib import Path

    recipe = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
    words = [recipe, "--dry-run", "--task_args.size", "64", "--max_steps=-1", "--num_train_epochs=2", "--tau=0.1"]
    result = run_python(DRY_RUN, tmp_path, *words)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []
    plan = " ".join(result.stdout.split())
    # 64 prompts, 16 a step: 4 steps an epoch, 8 in two; 128 completions each of at most 30 tokens.
    for part in (
        "tau: 0.1",
        "64 training prompts, 256 held out",
        "16 prompts x 8 completions",
        "# steps 8 #",
        "# completions 1,024 #",
        "at most 30,720 generated",
        "tau = 0.1, kappa = 1.0, policy: current",
        "full fine-tuning",
    ):
        assert part in plan
    assert "output_dir" not in plan


def test_tasks_say_which_rewards_lack_their_package(monkeypatch, capsys):
    from dgpo.lab.cli import commands

    assert main(["tasks"]) == 0
    assert "Not installed here" not in capsys.readouterr().out
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert main(["tasks"]) == 0
    assert "Not installed here: math-verify" in capsys.readouterr().out
