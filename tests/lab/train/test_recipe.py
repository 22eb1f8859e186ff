"""Reading recipes: types, overrides, and every problem at once with its place."""

import pytest

from dgpo.errors import RecipeError
from dgpo.lab.train.options import NOT_OFFERED
from dgpo.lab.train.recipe import load_recipe, parse_recipe
from dgpo.lab.train.schema import config_fields
from dgpo.lab.yaml12 import dump_values

QUIET = "task: forks\nmodel_name_or_path: forks\n"


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # YAML 1.1 reads text here
        ("learning_rate: '1e-4'", "learning_rate", 1e-4),
        ("learning_rate: 3", "learning_rate", 3.0),
        ("max_steps: 1e3", "max_steps", 1000),
        ("max_steps: -1", "max_steps", -1),
        ("seed: 010", "seed", 10),  # YAML 1.1: octal 8
        ("bf16: null", "bf16", None),
        ("bf16: no", "bf16", False),
        ("bf16: TRUE", "bf16", True),
        ("eval_strategy: no", "eval_strategy", "no"),  # YAML 1.1: False
        ("lr_scheduler_type: cosine", "lr_scheduler_type", "cosine"),
        ("run_name: 2024-01-01", "run_name", "2024-01-01"),  # YAML 1.1: a date
        ("lora_target_modules: all-linear", "lora_target_modules", ["all-linear"]),
        ("lora_target_modules: [q_proj, v_proj]", "lora_target_modules", ["q_proj", "v_proj"]),
        ("reward_weights: [1, 0.5]", "reward_weights", [1, 0.5]),
        ("pad_to_multiple_of: auto", "pad_to_multiple_of", "auto"),
        ("pad_to_multiple_of: 8", "pad_to_multiple_of", 8),
        ("scale_rewards: false", "scale_rewards", False),
        ("task_args: {num_forks: 3, correctness: 5e-1}", "task_args", {"num_forks": 3, "correctness": 0.5}),
        ("report_to: [wandb]", "report_to", ["wandb"]),
        ("report_to: none", "report_to", "none"),
    ],
)
def test_a_value_gets_the_type_of_its_field(recipe_file, schema, line, key, value):
    recipe = load_recipe(recipe_file(line), [], schema)
    assert recipe[key] == value
    assert type(recipe[key]) is type(value) or isinstance(value, float)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("learning_rate: fast", "learning_rate must be a number, got 'fast' (text)"),
        ("learning_rate: .nan", "learning_rate must be a number"),
        ("max_steps: 2.5", "max_steps must be a whole number, got 2.5"),
        ("max_steps: true", "max_steps must be a whole number, got True (a boolean)"),
        ("max_steps:", "max_steps must be a whole number, got null"),
        ("gradient_checkpointing: 1", "gradient_checkpointing must be true or false, got 1"),
        ("task: 5", "task must be text (or null), got 5"),
        ("task_args: [1]", "task_args must be a mapping, got [1] (a list)"),
        ("reward_weights: [a]", "reward_weights must be a list of numbers (or null)"),
        ("lr_scheduler_type: cosin", "lr_scheduler_type: 'cosin' is not possible. Did you mean 'cosine'?"),
        ("credit_policy: new", "credit_policy: 'new' is not possible; it must be one of current, old"),
        ("dtype: float8", "it must be one of auto, bfloat16, float16, float32"),
        ("loss_type: luspo", "it must be one of grpo, bnpo"),
        ("learing_rate: 1", "unknown key 'learing_rate'. Did you mean 'learning_rate'?"),
        ("lr: 1", "unknown key 'lr'. Did you mean 'learning_rate'?"),
        ("zzzzzz: 1", "`dgpo train --help-all` lists every key"),
        ("hub_token: abc", "set the environment variable HF_TOKEN instead"),
        ("load_in_4bit: true", "quantized models are not supported"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_line(recipe_file, schema, line, complaint):
    path = recipe_file(f"seed: 1\n{line}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, [], schema)
    assert f"{path}:2: " in str(caught.value)
    assert complaint in str(caught.value)


def test_all_problems_are_listed_at_once(recipe_file, schema):
    path = recipe_file("learing_rate: 1\ntau: sharp\nseed: 1\nseed: 2\ntask_args: {a: 1, a: 2}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["--kapa", "1", "--bf16", "maybe", "stray", "--tau"], schema)
    message = str(caught.value)
    assert message.startswith("8 things to put right:")
    for part in (
        f"{path}:1: unknown key 'learing_rate'",
        f"{path}:2: tau must be a number",
        f"{path}:4: 'seed' is set a second time (first in line 3)",
        f"{path}:5: 'a' is set a second time (first in line 5)",
        "command line: unknown key 'kapa'. Did you mean 'kappa'?",
        "command line: bf16 must be true or false",
        "command line: unexpected 'stray'",
        "command line: --tau needs a value",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--learning_rate", "1e-4"], "learning_rate", 1e-4),
        (["--learning-rate=1e-4"], "learning_rate", 1e-4),
        (["--bf16", "false"], "bf16", False),
        (["--bf16"], "bf16", True),
        (["--use_peft", "--tau", "2"], "use_peft", True),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--lora_target_modules", "[q_proj, v_proj]"], "lora_target_modules", ["q_proj", "v_proj"]),
        (["--task_args.num_forks", "6"], "task_args", {"num_forks": 6, "size": 10}),
        (["--task_args", "{num_forks: 6}"], "task_args", {"num_forks": 6}),
        (["--chat_template_kwargs.a.b=1"], "chat_template_kwargs", {"a": {"b": 1}}),
        (["--run_name", "7"], "run_name", "7"),
        (["--run_name=a=b"], "run_name", "a=b"),
        (["--output_dir="], "output_dir", None),
        (["--tau", "1", "--tau", "2"], "tau", 2),
    ],
)
def test_an_override_wins_over_the_file(recipe_file, schema, words, key, value):
    path = recipe_file("learning_rate: 5\ntask_args: {num_forks: 4, size: 10}\n")
    recipe = load_recipe(path, words, schema)
    assert recipe[key] == value
    assert recipe.place(key) == "command line"


def test_a_part_of_a_plain_field_is_refused(recipe_file, schema):
    with pytest.raises(RecipeError, match="learning_rate is a number, it has no parts"):
        load_recipe(recipe_file(QUIET), ["--learning_rate.x", "1"], schema)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "must hold `key: value` lines, and holds a list"),
        ("just words", "holds a single value"),
        ("a: [1\nb: 2\n", "small.yaml:2: this is not valid YAML"),
        ("tau: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(recipe_file, schema, text, complaint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_file(text), [], schema)
    assert complaint in str(caught.value)


def test_a_missing_recipe_names_the_nearest(recipe_file, schema, tmp_path):
    recipe_file(QUIET, name="quickstart.yaml")
    with pytest.raises(RecipeError, match=r"Did you mean .*quickstart\.yaml"):
        load_recipe(tmp_path / "quickstrat.yaml", [], schema)


def test_an_empty_recipe_is_all_defaults(recipe_file, schema):
    recipe = load_recipe(recipe_file("# nothing\n"), [], schema)
    assert recipe.changed() == {}
    assert (recipe["credit_rule"], recipe["tau"], recipe["num_generations"]) == ("dgpo", None, 8)  # the rule's own tau


def test_what_is_written_is_read_back(recipe_file, schema):
    values = {
        "task": "forks",
        "task_args": {"name": "no", "number": "1e-4", "date": "2024-01-01", "x": 1e-06, "list": ["on", 1, None]},
        "learning_rate": 1e-06,
        "eval_strategy": "no",
        "run_name": "010",
        "bf16": False,
        "lora_target_modules": ["q_proj"],
    }
    recipe = load_recipe(recipe_file(dump_values(values)), [], schema)
    assert recipe.values == values


def test_every_default_fits_its_own_field(schema):
    for item in schema.values():
        if item.default is not None:
            assert item.fit(item.default) == item.default, item.name


def test_fields_that_are_not_offered_exist_in_trl(schema):
    """A name that TRL drops must be dropped here as well, or the explanation would be wrong."""
    import dataclasses

    from trl import GRPOConfig, ModelConfig

    known = {item.name for cls in (GRPOConfig, ModelConfig) for item in dataclasses.fields(cls)}
    assert set(NOT_OFFERED) - known <= {"local_rank"}
    assert not set(NOT_OFFERED) & set(schema)


def test_parse_recipe_collects_instead_of_raising(recipe_file, schema):
    recipe = parse_recipe(recipe_file("tau: sharp\nkappa: 2\n"), [], schema)
    assert len(recipe.problems) == 1
    assert recipe["kappa"] == 2


def test_fields_of_our_own_bases_are_dgpos(recipe_file):
    """A rule and its options, declared in a class that the configurations of two engines share."""
    from dataclasses import dataclass, field
    from typing import Any

    @dataclass
    class Base:
        learning_rate: float = 1e-6

    @dataclass
    class Credit:
        credit_rule: str = "dgpo"
        credit_options: dict[str, Any] = field(default_factory=dict)
        tau: float | None = None

    @dataclass
    class Config(Credit, Base):
        credit_policy: str = "current"

    schema = config_fields(Config, Base)
    assert {name: item.group for name, item in schema.items()} == {
        "learning_rate": "trainer",
        **dict.fromkeys(("credit_rule", "credit_options", "tau", "credit_policy"), "dgpo"),
    }
    words = ["--credit_rule", "my_rules.py:capped", "--credit_options.cap", "3", "--tau", "null"]
    recipe = load_recipe(recipe_file("credit_options: {floor: 0.5}\n"), words, schema)
    assert recipe.of_group("dgpo") == {
        "credit_rule": "my_rules.py:capped",
        "credit_options": {"floor": 0.5, "cap": 3},
        "tau": None,
    }
