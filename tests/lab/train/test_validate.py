"""What is refused before anything is loaded."""

from collections import namedtuple
from typing import Any

import pytest

from dgpo.errors import ConfigError, RecipeError, TrainingError
from dgpo.lab.train import validate
from dgpo.lab.train.preflight import check_processes
from dgpo.lab.train.recipe import load_recipe
from dgpo.lab.train.values import fit

BASE = "task: forks\nmodel_name_or_path: forks\n"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def check(recipe_file, schema):
    def run(*overrides: str) -> list[str]:
        return validate.check_recipe(load_recipe(recipe_file(BASE), list(overrides), schema))

    return run


def test_the_base_has_no_problem(check):
    assert check() == []


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("--tau=0", "tau is 0, and must be above 0"),
        ("--tau=-0.5", "tau is -0.5"),
        ("--kappa=-1", "kappa is -1, and must be 0 or more"),
        ("--num_generations=1", "num_generations is 1, and must be 2 or more"),
        ("--temperature=0", "temperature is 0, and must be above 0"),
        ("--top_p=1.5", "top_p is 1.5, and must be above 0 and at most 1"),
        ("--max_steps=0", "nothing would be trained"),
        ("--eval_size=-1", "eval_size is -1"),
        ("--trust_remote_code", "trust_remote_code stays as it is by default: it runs code"),
        ("--model_init_kwargs.trust_remote_code=true", "model_init_kwargs.trust_remote_code stays"),
        ("--model_init_kwargs.use_safetensors=false", "model_init_kwargs.use_safetensors stays"),
        ("--model_init_kwargs.allow_all_kernels=true", "model_init_kwargs.allow_all_kernels stays"),
        ("--model_init_kwargs.token=short", "model_init_kwargs.token looks like a secret (its value is not shown)"),
        ("--reward_options.judge.api_key=short", "reward_options.judge.api_key looks like a secret"),
        ("--vllm_server_base_url=http://me:hunter2@host", "vllm_server_base_url looks like a secret"),
        ("--task=null", "the recipe names no task"),
        ("--per_device_train_batch_size=0", "per_device_train_batch_size is 0"),
    ],
)
def test_a_value_that_cannot_work_is_named(check, override, complaint):
    problems = check(override)
    assert len(problems) == 1
    assert complaint in problems[0]
    assert "=short" not in problems[0]
    assert "hunter2" not in problems[0]


def test_kappa_zero_is_allowed(check):
    assert check("--kappa=0") == []


def test_batches_must_hold_whole_groups(check):
    # 8 completions a step and groups of 3: 6 or 9 would fit. Held out: 8 does not divide by 3 either.
    train, held_out = check("--num_generations=3")
    assert "choose a batch of 6 or 9" in train
    assert "num_generations_eval: 1" in held_out
    assert check("--num_generations=3", "--generation_batch_size=24", "--num_generations_eval=1") == []
    assert check("--num_generations=3", "--gradient_accumulation_steps=3", "--eval_size=0") == []


def test_processes_count_in_the_batch(check, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert check("--num_generations=3") == []  # 3 x 8 = 24 completions


def test_a_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for create in (True, False):
        with pytest.raises(RecipeError, match="file is a file; choose another one"):
            validate.check_output_dir(tmp_path / "file" / "run", create=create)


def test_looking_creates_nothing(tmp_path):
    validate.check_output_dir(tmp_path / "a" / "b", create=False)
    assert not (tmp_path / "a").exists()
    validate.check_output_dir(tmp_path / "a" / "b", create=True)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_directory_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(validate.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(RecipeError, match="Read-only file system; choose another one"):
        validate.check_output_dir(tmp_path / "run", create=True)


def test_a_full_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(validate.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 5 * 2**20))
    with pytest.raises(TrainingError, match="Only 5 MiB are free"):
        validate.check_output_dir(tmp_path, create=True)


def test_checkpoints_that_cannot_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(validate.shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 6 * 2**30))
    # Weights and two moments: 3 GiB a checkpoint, two at once and 300 MiB: 6.3 GiB.
    with pytest.raises(TrainingError, match=r"need about 6\.3 GiB"):
        validate.check_space_for_checkpoints(tmp_path, weight_bytes=2**30, lora=False, limit=1)
    validate.check_space_for_checkpoints(tmp_path, weight_bytes=2**30, lora=True, limit=1)
    validate.check_space_for_checkpoints(tmp_path, weight_bytes=0, lora=False, limit=None)


@pytest.mark.parametrize("value", ["a\0b", ["a", "\0"], {"a": {"b": ["\0"]}}, {"\0": 1}], ids=repr)
def test_a_nul_character_fits_no_field(value):
    for hint in (str, str | None, list[str] | str, dict | str | None, Any):
        with pytest.raises(ValueError, match="output_dir holds a NUL character"):
            fit(value, hint, name="output_dir")
    assert fit("\\0", str) == "\\0"


def test_processes_that_form_no_group_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    with pytest.raises(ConfigError, match=r"started 2 processes, and the process group has 1\. .*--use_cpu true"):
        check_processes(1)
