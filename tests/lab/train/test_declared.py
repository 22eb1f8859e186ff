import dataclasses
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dgpo.errors import ConfigError, RecipeError
from dgpo.lab.train import declared, planned, schema
from dgpo.lab.train.assemble import build_config
from dgpo.lab.train.recipe import Recipe
from dgpo.lab.train.values import _enum_choices
from dgpo.versions import release_of
from train_project import make_tokenizer

_RECIPES = {
    "defaults": {},
    "quickstart": {
        **{"num_generations": 8, "per_device_train_batch_size": 128, "max_steps": 200, "learning_rate": 5e-4},
        **{"lr_scheduler_type": "linear", "adam_beta2": 0.95, "gradient_checkpointing": False, "save_steps": 50},
        **{"per_device_eval_batch_size": 128, "num_generations_eval": 1, "logging_steps": 1, "credit_log_steps": 20},
    },
    "accumulation": {"gradient_accumulation_steps": 4, "num_generations": 4, "num_train_epochs": 2, "beta": 0.1},
    "several updates": {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "num_iterations": 2},
    "a rule": {"credit_rule": "capped", "credit_options": {"cap": 3.0}, "tau": 0.1, "credit_policy": "old"},
    "a hint": {"credit_rule": "hindsight"},
    "trackers": {"report_to": ["wandb", "trackio"], "save_strategy": "epoch", "optim": "sgd", "warmup_steps": 3},
    "templates": {"chat_template_kwargs": {"enable_thinking": False}, "model_init_kwargs": {"use_cache": False}},
}
# What the plan reads of a configuration.
_READ = (
    *("generation_batch_size", "steps_per_generation", "num_generations", "num_generations_eval", "num_iterations"),
    *("gradient_accumulation_steps", "max_steps", "num_train_epochs", "max_completion_length", "chat_template_kwargs"),
    *("credit_rule", "credit_options", "credit_policy", "tau", "kappa", "hint", "world_size", "process_index"),
    *("temperature", "top_p", "per_device_eval_batch_size"),
)


def _recipe(**values: object) -> Recipe:
    return Recipe({"bf16": False, "report_to": [], **values}, schema.declared_schema())


def test_fields_are_those_of_the_classes_themselves():
    fields, classes = schema.declared_schema(), schema.recipe_schema()
    assert list(fields) == list(classes)
    for name, field in fields.items():
        real = classes[name]
        assert dataclasses.replace(field, hint=None) == dataclasses.replace(real, hint=None)
        assert _enum_choices(field.hint) == _enum_choices(real.hint)
        if not _enum_choices(real.hint) and name != "debug":
            assert field.hint == real.hint, name


@pytest.mark.parametrize("name", _RECIPES)
def test_plan_reads_what_the_constructor_gives(name, tmp_path, monkeypatch):
    recipe = _recipe(**_RECIPES[name])
    monkeypatch.setattr(planned, "build_config", lambda *args: pytest.fail("TRL would be loaded"))
    fast = planned.planned_config(recipe, tmp_path)
    real = build_config(recipe, tmp_path)
    assert {key: getattr(fast, key) for key in _READ} == {key: getattr(real, key) for key in _READ}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generation_batch_size": 8, "steps_per_generation": 1}, "can not be both configured"),
        ({"generation_batch_size": 12, "num_generations": 4}, "must be divisible by the global batch size"),
        ({"load_best_model_at_end": True}, "requires the save and eval strategy to match"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "requires an eval strategy"),
        ({"logging_steps": 2.5}, "must be an integer"),
        ({"logging_steps": 0}, "requires non-zero"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"bf16": True, "fp16": True, "use_cpu": True}, "At most one of fp16 and bf16"),
        ({"torch_empty_cache_steps": 0}, "torch_empty_cache_steps"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        ({"num_generations": 1}, "divisible|at least 2"),
        ({"importance_sampling_level": "sequence"}, "Use 'token'"),
        ({"credit_rule": "even", "tau": 0.5}, "no option 'tau'"),
        ({"hint": "gold"}, "read by no credit rule"),
    ],
)
def test_plan_refuses_what_the_constructor_refuses(values, message, tmp_path):
    if values == {"num_generations": 1}:  # `validate` has refused it before either is asked
        values = {"num_generations": 1, "generation_batch_size": 8}
    for make in (build_config, planned.planned_config):
        with pytest.raises((ConfigError, RecipeError), match=message):
            make(_recipe(**values), tmp_path)


def test_every_field_that_a_constructor_looks_at_and_that_is_taken_is_a_field():
    classes = declared.declared_classes()
    assert set(planned._TAKEN) <= classes.read_at_construction | {"importance_sampling_level"}
    assert {"learning_rate", "beta", "temperature", "max_steps"}.isdisjoint(classes.read_at_construction)


def test_another_layout_of_the_source_is_not_guessed(monkeypatch):
    monkeypatch.setattr(declared, "_SOURCES", (*declared._SOURCES, ("trl", "trainer/grpo_config.py", ("NotThere",))))
    declared.declared_classes.cache_clear()
    try:
        assert declared.declared_classes() is None
    finally:
        monkeypatch.undo()
        declared.declared_classes.cache_clear()


@pytest.mark.skipif(release_of(version("transformers"), 2) < (5, 23), reason="seen to load torch with 5.10 and 5.17")
def test_dry_run_of_a_file_loads_neither_torch_nor_trl_nor_datasets(tmp_path):
    (tmp_path / "sums.jsonl").write_text(
        "".join(f'{{"question": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(40))
    )
    words = "task: sums.jsonl\nbf16: false\nmax_steps: 2\nmax_completion_length: 8\n"
    (tmp_path / "sums.yaml").write_text(f"{words}model_name_or_path: model\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 64}')
    (tmp_path / "model" / "model.safetensors").touch()  # no weight is read
    make_tokenizer().save_pretrained(tmp_path / "model")
    heavy = ("torch", "trl", "datasets", "accelerate", "pandas", "peft", "wandb", "trackio")
    program = (
        "import sys; from dgpo.lab.cli.main import main; code = main('train sums.yaml --dry-run --tau .1'.split());"
        f"print('loaded:', [name for name in {heavy} if name in sys.modules]); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "36 training prompts, 4 held out" in result.stdout
    assert '"<s>u:0 + 1?</s><s>a:"' in result.stdout
    assert result.stdout.endswith("loaded: []\n")
    assert not Path(tmp_path / "runs").exists()
