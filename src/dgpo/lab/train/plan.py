"""What a run would do, in words and numbers, without loading a model: `--dry-run`."""

import json
import math
from pathlib import Path
from typing import Any

from dgpo.engines.hints import OTHER, PLAIN
from dgpo.engines.trl.settings import check_hint_data, hint_column
from dgpo.lab import yaml12
from dgpo.lab.evaluation.problems import on_hub as problems_on_hub
from dgpo.lab.models import resolve_model
from dgpo.lab.tasks.registry import on_hub
from dgpo.lab.train.assemble import (
    FORKS,
    check_task_of_hub,
    load_eval_problems,
    load_task,
    refuse_adapter,
    reward_names,
)
from dgpo.lab.train.preflight import check_data_fills_a_step, fit_task, read_model_of, rendered
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
    task, asked = _read_task(recipe, config)
    rows = [*_rows(recipe, config, path, task), *asked]
    width = max(len(label) for label, _ in rows)
    lines += [f"#   {label:<{width}}  {text}" for label, text in rows]
    return "\n".join(lines)


def _rows(recipe: Recipe, config: Any, path: Path, task: Any) -> list[tuple[str, str]]:
    completions, _ = generation_batch(recipe)
    prompts = completions // config.num_generations
    rows = None if task is None else len(task.train)
    held_out_rows: int | None = recipe["eval_size"]
    if task is not None:
        held_out_rows = 0 if task.held_out is None else len(task.held_out)
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
        ("task", _task_text(recipe, task)),
        ("model", f"{recipe['model_name_or_path']}, {fitting}, {recipe['dtype']}"),
        ("credit", _credit(config)),
        *([] if config.hint is None else [("hint", _hint(config))]),
        ("each sampling", f"{prompts} prompts x {config.num_generations} completions"),
        ("steps", _counted(steps, "unknown until the data is read")),
        ("completions", _counted(None if samplings is None else samplings * completions, "unknown")),
        ("tokens", "unknown" if tokens is None else f"at most {tokens:,} generated"),
        ("held out", held_out),
        ("processes", f"{config.world_size}"),
        ("run directory", str(path)),
    ]


def _task_text(recipe: Recipe, task: Any) -> str:
    if task is None:
        return f"{recipe['task']} (not read: it may have to be downloaded)"
    held_out = 0 if task.held_out is None else len(task.held_out)
    rewards = ", ".join(reward_names(task))
    return f"{recipe['task']}: {len(task.train):,} training prompts, {held_out:,} held out; rewards: {rewards}"


def _credit(config: Any) -> str:
    """The rule, where it is another one than the paper's, its options and the policy that it measures."""
    rule = config.credit_rule
    options = {"tau": config.tau, "kappa": config.kappa, **config.credit_options}
    parts = [f"{name} = {value}" for name, value in options.items() if value is not None]
    return ", ".join([*([] if rule == "dgpo" else [rule]), *parts, f"policy: {config.credit_policy}"])


def _hint(config: Any) -> str:
    """What the reference is shown, and what that is compared with."""
    shown = "a right completion of the prompt" if config.hint == "peer" else f"column {hint_column(config.hint)}"
    names = {OTHER: "another prompt's hint", PLAIN: "the plain prompt"}
    return f"{shown}, compared with {names.get(config.hint_control, f'column {config.hint_control}')}"


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


def prompts_per_sampling(config: Any) -> int:
    """Return how many prompts are sampled at once."""
    return int(config.generation_batch_size // config.num_generations)


def _read_task(recipe: Recipe, config: Any) -> tuple[Any, list[tuple[str, str]]]:
    """The task as it will be trained on, where that needs no network, and what the model is asked."""
    if recipe["eval_task"] and not problems_on_hub(recipe["eval_task"]):
        load_eval_problems(recipe)
    model = _local_model(recipe)
    if on_hub(recipe["task"]):
        check_task_of_hub(recipe)
        check_hint_data(config, None)
        if model is not None:
            read_model_of(recipe, model, planning=True)
        return None, []
    task = load_task(recipe)
    check_hint_data(config, task.train.names())
    check_data_fills_a_step(len(task.train), prompts_per_sampling(config))
    notes, kwargs = list(task.notes), config.chat_template_kwargs
    prompt = _one_line(task.train["prompt"][0])
    if model is not None:
        facts = read_model_of(recipe, model, planning=True)
        task, more = fit_task(recipe, task, facts, kwargs)
        notes += more
        prompt = rendered(task.train["prompt"][0], task.prompt_format(kwargs), facts.tokenizer)
    left_out = check_data_fills_a_step(len(task.train), prompts_per_sampling(config))
    notes += [left_out] if left_out and config.max_steps <= 0 else []
    gold = task.train.row(0).get("answer")
    shown = "none" if gold is None else " | ".join(gold) if isinstance(gold, list) else repr(gold)
    return task, [("first prompt", prompt), ("gold answer", shown), *(("note", note) for note in notes)]


def _local_model(recipe: Recipe) -> str | None:
    """The folder of the model, if it is on this machine; raises if it can only be a folder and is not there."""
    if recipe["model_name_or_path"] == FORKS:
        return None  # made on first use
    model = resolve_model(recipe["model_name_or_path"])
    refuse_adapter(model, recipe.place("model_name_or_path"))
    return model if Path(model).is_dir() else None


def _one_line(prompt: Any) -> str:
    return json.dumps(prompt, ensure_ascii=False)


def _counted(count: int | None, unknown: str) -> str:
    return unknown if count is None else f"{count:,}"
