"""What a run would do, in words and numbers, without loading a model: `--dry-run`."""

import math
from pathlib import Path
from typing import Any

from dgpo.lab import yaml12
from dgpo.lab.train.assemble import FORKS, load_task, reward_names
from dgpo.lab.train.recipe import Recipe
from dgpo.lab.train.validate import generation_batch


def describe_plan(recipe: Recipe, config: Any, path: Path, *, full: bool) -> str:
    """Return the resolved configuration and what will run.

    Args:
        recipe: The recipe with its overrides.
        config: The `DGPOConfig` made of it.
        path: The run directory.
        full: List every field, not only those that differ from their defaults.

    Returns:
        Text for the terminal: YAML that is a recipe itself, then the plan as comments.
    """
    values = recipe.everything() if full else recipe.changed()
    heading = "every field" if full else "what differs from the defaults; --dry-run=full lists every field"
    lines = [f"# Resolved configuration ({heading})", yaml12.dump_values(values).rstrip(), "", "# What will run"]
    rows = _rows(recipe, config, path)
    width = max(len(label) for label, _ in rows)
    lines += [f"#   {label:<{width}}  {text}" for label, text in rows]
    return "\n".join(lines)


def _rows(recipe: Recipe, config: Any, path: Path) -> list[tuple[str, str]]:
    completions, _ = generation_batch(recipe)
    prompts = completions // config.num_generations
    rows, held_out_rows, task_text = _task_facts(recipe)
    steps = num_steps(config, rows)
    samplings = None if steps is None else math.ceil(steps / steps_per_sampling(config))
    tokens = None if samplings is None else samplings * completions * config.max_completion_length
    fitting = "full fine-tuning"
    if recipe["use_peft"]:
        fitting = f"LoRA, r = {recipe['lora_r']}, alpha = {recipe['lora_alpha']}"
    held_out = "not measured"
    if recipe["eval_before_and_after"] and held_out_rows != 0:
        prompts_held_out = "all" if held_out_rows is None else str(held_out_rows)
        held_out = f"{prompts_held_out} prompts x {config.num_generations_eval or config.num_generations} completions"
    return [
        ("task", task_text),
        ("model", f"{recipe['model_name_or_path']}, {fitting}, {recipe['dtype']}"),
        ("credit", _credit(config)),
        ("each sampling", f"{prompts} prompts x {config.num_generations} completions"),
        ("steps", _counted(steps, "unknown until the data is read")),
        ("completions", _counted(None if samplings is None else samplings * completions, "unknown")),
        ("tokens", "unknown" if tokens is None else f"at most {tokens:,} generated"),
        ("held out", held_out),
        ("processes", f"{config.world_size}"),
        ("run directory", str(path)),
    ]


def _credit(config: Any) -> str:
    """The rule, where it is another one than the paper's, its options and the policy that it measures."""
    rule = config.credit_rule
    options = {"tau": config.tau, "kappa": config.kappa, **config.credit_options}
    parts = [f"{name} = {value}" for name, value in options.items() if value is not None]
    return ", ".join([*([] if rule == "dgpo" else [rule]), *parts, f"policy: {config.credit_policy}"])


def steps_per_sampling(config: Any) -> float:
    """Return how many optimizer steps are made on one sampling of completions."""
    return config.steps_per_generation * config.num_iterations / config.gradient_accumulation_steps


def num_steps(config: Any, rows: int | None) -> int | None:
    """Return the number of optimizer steps; `None` where it hangs on data that was not read.

    Args:
        config: The `DGPOConfig`.
        rows: Number of training prompts, or `None`.

    Returns:
        The steps of all epochs, or `max_steps`.
    """
    if config.max_steps > 0:
        return int(config.max_steps)
    if rows is None:
        return None
    prompts = config.generation_batch_size // config.num_generations
    # TRL drops a last sampling that is not full.
    batches = rows // prompts * config.steps_per_generation * config.num_iterations
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
    return math.ceil(per_epoch * config.num_train_epochs)


def _task_facts(recipe: Recipe) -> tuple[int | None, int | None, str]:
    """Read the task if that needs no network; a hub data set is left alone."""
    name = recipe["task"]
    local = name == FORKS or name.startswith("reasoning_gym:") or Path(name).exists()
    if not local:
        return None, recipe["eval_size"], f"{name} (not read: it may have to be downloaded)"
    task = load_task(recipe)
    rows = len(task.train_dataset)
    held_out = 0 if task.eval_dataset is None else len(task.eval_dataset)
    rewards = ", ".join(reward_names(task))
    return rows, held_out, f"{name}: {rows:,} training prompts, {held_out:,} held out; rewards: {rewards}"


def _counted(count: int | None, unknown: str) -> str:
    return unknown if count is None else f"{count:,}"
