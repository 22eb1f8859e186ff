"""What `dgpo eval --run RUN` measures: the held-out prompts of a run, asked and scored as it was trained."""

from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError
from dgpo.lab.runs.files import FINAL, RECIPE
from dgpo.lab.train.recipe import Recipe, load_recipe
from dgpo.lab.train.schema import declared_schema

_NOT_OF_A_RUN = ("task", "protocol", "task_args", "rewards", "reward_options")


def options_of_run(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `dgpo eval` that measure a model on the held-out prompts of a run.

    Args:
        run: The run directory.
        given: What the command line says; None and empty values leave the choice to the run. Without a model, the
            trained one is measured.

    Returns:
        Fields of `EvaluationRequest`.

    Raises:
        ConfigError: If there is no such run, it has no trained model and none is named, or an option contradicts it.
    """
    for name in _NOT_OF_A_RUN:
        if given.get(name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"--run takes task, prompt and scorer from the run; leave {option} out, or --run.")
    recipe = _recipe(run)
    options = {**given, "held_out": True, "task_seed": recipe["seed"]}
    for name in ("task", "task_args", "rewards", "reward_options", "eval_size"):
        options[name] = recipe[name]
    sampling = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_completion_length"}
    for name, field in {**sampling, "chat_template_kwargs": "chat_template_kwargs"}.items():
        chosen = given.get(name)
        options[name] = recipe[field] if chosen is None or chosen == {} else chosen
    options["chat_template_kwargs"] = options["chat_template_kwargs"] or {}
    options["model"] = given.get("model") or _trained_model(run, recipe)
    return options


def _recipe(run: Path) -> Recipe:
    if not (run / RECIPE).is_file():
        raise ConfigError(f"{run} is no directory of a run: it has no {RECIPE}.")
    return load_recipe(run / RECIPE, [], declared_schema())


def _trained_model(run: Path, recipe: Recipe) -> str:
    if not (run / FINAL).is_dir():
        before = recipe["model_name_or_path"]
        raise ConfigError(
            f"{run} has no trained model yet ({run / FINAL}). Name the one to measure: `dgpo eval {before} --run "
            f"{run}` for the model before training, or a checkpoint in it."
        )
    return str(run / FINAL)
