"""What can be refused before anything is loaded: values that cannot work, a directory that cannot be written."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from dgpo.errors import ConfigError, RecipeError, TrainingError
from dgpo.lab.foreign_code import refused_options
from dgpo.lab.train.packages import missing_packages
from dgpo.lab.train.recipe import Recipe
from dgpo.secrets import find_secrets

# A run writes its curve, metrics and completions in any case; checkpoints come on top.
MINIMUM_FREE_BYTES = 300 * 2**20

# name -> (what it must satisfy, the test); applied only to values that are not None.
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "tau": ("above 0: it divides the scores, and the smaller it is the sharper the redistribution", lambda x: x > 0),
    "kappa": ("0 or more: it is the power of the entropy gate, and 0 switches the gate off", lambda x: x >= 0),
    "num_generations": ("2 or more: the advantage compares the completions of one prompt", lambda x: x >= 2),
    "num_generations_eval": ("1 or more", lambda x: x >= 1),
    "num_iterations": ("1 or more", lambda x: x >= 1),
    "per_device_train_batch_size": ("1 or more", lambda x: x >= 1),
    "per_device_eval_batch_size": ("1 or more", lambda x: x >= 1),
    "gradient_accumulation_steps": ("1 or more", lambda x: x >= 1),
    "max_completion_length": ("1 or more", lambda x: x >= 1),
    "learning_rate": ("0 or more", lambda x: x >= 0),
    "num_train_epochs": ("above 0", lambda x: x > 0),
    "logging_steps": ("above 0", lambda x: x > 0),
    "beta": ("0 or more: it weighs a KL penalty", lambda x: x >= 0),
    "epsilon": ("0 or more", lambda x: x >= 0),
    "epsilon_high": ("0 or more", lambda x: x >= 0),
    "top_k": ("0 or more", lambda x: x >= 0),
    "min_p": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "repetition_penalty": ("above 0", lambda x: x > 0),
    "weight_decay": ("0 or more", lambda x: x >= 0),
    "max_grad_norm": ("0 or more", lambda x: x >= 0),
    "adam_beta1": ("at least 0 and below 1", lambda x: 0 <= x < 1),
    "adam_beta2": ("at least 0 and below 1", lambda x: 0 <= x < 1),
    "adam_epsilon": ("0 or more", lambda x: x >= 0),
    "seed": ("from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32),
    "data_seed": ("from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32),
    "temperature": ("above 0", lambda x: x > 0),
    "top_p": ("above 0 and at most 1", lambda x: 0 < x <= 1),
    "eval_size": ("0 or more", lambda x: x >= 0),
    "completions_every": ("0 or more", lambda x: x >= 0),
    "eval_every": ("0 or more", lambda x: x >= 0),
    "eval_samples": ("1 or more", lambda x: x >= 1),
    "num_threads": ("1 or more", lambda x: x >= 1),
    "max_prompt_length": ("1 or more", lambda x: x >= 1),
    "lora_r": ("1 or more", lambda x: x >= 1),
    "lora_dropout": ("at least 0 and below 1", lambda x: 0 <= x < 1),
}


def world_size() -> int:
    """Return the number of processes of this launch; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process is the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def check_recipe(recipe: Recipe) -> list[str]:
    """Return every problem of the values of a recipe, each with the value, the reason and the remedy.

    Args:
        recipe: A recipe whose values already fit their types.

    Returns:
        One sentence a problem; empty if the recipe can run.
    """
    problems = []
    for name, required in (("task", "forks"), ("model_name_or_path", "forks")):
        if not recipe[name]:
            problems.append(f"the recipe names no {name}; add a line such as `{name}: {required}`")
    for name, (rule, holds) in _BOUNDS.items():
        value = recipe[name] if name in recipe.schema else None
        if value is not None and not holds(value):
            problems.append(f"{recipe.place(name)}: {name} is {value}, and must be {rule}")
    if (steps := recipe["max_steps"]) == 0 or steps < -1:
        problems.append(
            f"{recipe.place('max_steps')}: max_steps is {steps}, so nothing would be trained; use -1 for epochs"
        )
    if recipe["reward_weights"] and not any(recipe["reward_weights"]):
        problems.append(f"{recipe.place('reward_weights')}: reward_weights are all 0, so nothing would be learned")
    if recipe["eval_every"] and not recipe["eval_task"]:
        problems.append(
            f"{recipe.place('eval_every')}: eval_every is {recipe['eval_every']}, and there is no eval_task; "
            "add a line such as `eval_task: aime24`"
        )
    if recipe["padding_free"] and "flash" not in (recipe["attn_implementation"] or ""):
        problems.append(
            f"{recipe.place('padding_free')}: padding_free needs flash attention, which keeps the completions of a "
            "pack apart; add `attn_implementation: flash_attention_2` (a GPU), or use sort_by_length in its place"
        )
    problems += _check_eval_task(recipe)
    problems += _check_batches(recipe)
    problems += _check_foreign_code(recipe)
    problems += _check_secrets(recipe)
    problems += missing_packages(recipe)
    return problems


def _check_eval_task(recipe: Recipe) -> list[str]:
    from dgpo.lab.evaluation.problems import on_hub

    try:
        on_hub(recipe["eval_task"] or "forks")
    except ConfigError as error:
        return [f"{recipe.place('eval_task')}: eval_task: {error}"]
    return []


def _check_batches(recipe: Recipe) -> list[str]:
    """Whole groups of completions must fit both batches; TRL checks the second only after training."""
    group = recipe["num_generations"]
    sizes = [recipe[name] for name in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    if group is None or group < 2 or min(sizes) < 1:
        return []
    problems = []
    batch, formula = generation_batch(recipe)
    if batch % group:
        below, above = batch // group * group, -(-batch // group) * group
        fitting = " or ".join(str(size) for size in (below, above) if size)
        problems.append(
            f"num_generations is {group}, and the {batch} completions of a generation batch ({formula}) do not divide "
            f"by it; choose a batch of {fitting}, or another num_generations"
        )
    eval_group = recipe["num_generations_eval"] or group
    eval_batch = recipe["per_device_eval_batch_size"] * world_size()
    evaluates = recipe["eval_size"] != 0 and (recipe["eval_before_and_after"] or recipe["eval_strategy"] != "no")
    if evaluates and eval_group >= 1 and eval_batch % eval_group:
        problems.append(
            f"per_device_eval_batch_size is {recipe['per_device_eval_batch_size']} (x {world_size()} processes), and "
            f"does not divide by the {eval_group} completions a held-out prompt gets (num_generations_eval, or "
            f"num_generations where that is not set); set num_generations_eval: 1, or a multiple of {eval_group}"
        )
    return problems


def generation_batch(recipe: Recipe) -> tuple[int, str]:
    """Return the number of completions sampled at once, over all processes, and how it comes about."""
    if recipe["generation_batch_size"]:
        return recipe["generation_batch_size"], "generation_batch_size"
    steps = recipe["steps_per_generation"] or recipe["gradient_accumulation_steps"]
    named = "steps_per_generation" if recipe["steps_per_generation"] else "gradient_accumulation_steps"
    size = recipe["per_device_train_batch_size"]
    formula = f"per_device_train_batch_size {size} x {named} {steps} x {world_size()} process(es)"
    return size * steps * world_size(), formula


def _check_foreign_code(recipe: Recipe) -> list[str]:
    return [
        f"{recipe.place(option.partition('.')[0])}: {option} stays as it is by default: {reason}"
        for option, reason in refused_options(recipe.values)
    ]


def _check_secrets(recipe: Recipe) -> list[str]:
    """Refuse secrets: the recipe and the command line are copied into the run directory, and into checkpoints."""
    return [
        f"{recipe.place(option.partition('.')[0])}: {option} looks like a secret (its value is not shown), and a "
        "recipe is copied into the run directory. Leave it out, and give it by the environment: HF_TOKEN or `hf auth "
        "login` for the hub, WANDB_API_KEY for W&B"
        for option in dict.fromkeys(find_secrets(recipe.values))
    ]


def check_device(recipe: Recipe) -> list[str]:
    """Return the problems of mixed precision, which needs a GPU; bfloat16 is TRL's default.

    Args:
        recipe: A recipe whose values already fit their types.

    Returns:
        One sentence, or none.
    """
    if recipe["use_cpu"] or (recipe["bf16"] is False and not recipe["fp16"]):
        return []
    if _has_accelerator():
        return []
    if recipe["fp16"]:
        return [f"{recipe.place('fp16')}: fp16 needs a GPU, and there is none here; set fp16: false and bf16: false"]
    given = f"{recipe.place('bf16')}: bf16 is on" if recipe["bf16"] else "bf16 is on, which is TRL's default"
    return [f"{given}, and there is no GPU here; add `bf16: false`"]


def _has_accelerator() -> bool:
    if version("torch").endswith("+cpu"):
        return False  # a build that knows none, and need not be loaded for the answer
    import torch

    return torch.accelerator.is_available()


def check_output_dir(directory: Path, *, create: bool) -> None:
    """Refuse a run directory that cannot be written, before anything is spent on it.

    Args:
        directory: The run directory.
        create: Make it, and write and delete a file in it; otherwise only look at what exists (`--dry-run`).

    Raises:
        RecipeError: If it is a file, lies below a file, or cannot be written.
        TrainingError: If the disk is nearly full.
    """
    remedy = "choose another one with --output_dir DIR"
    existing = directory
    try:
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
    except OSError as error:  # a name that is too long, links in a circle
        raise RecipeError(f"The run directory {directory} cannot be made: {error.strerror}; {remedy}.") from error
    if not existing.is_dir():
        raise RecipeError(f"The run directory {directory} cannot be made: {existing} is a file; {remedy}.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RecipeError(f"The run directory {directory} cannot be written: no permission in {existing}; {remedy}.")
    if create:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=directory, prefix=".probe-") as probe:
                probe.write(b"dgpo")
                probe.flush()
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = getattr(error, "strerror", None) or str(error)
            raise RecipeError(f"The run directory {directory} cannot be written: {reason}; {remedy}.") from error
        existing = directory
    free = shutil.disk_usage(existing).free
    if free < MINIMUM_FREE_BYTES:
        raise TrainingError(
            f"Only {megabytes(free)} are free where the run directory {directory} lies, and a run needs at least "
            f"{megabytes(MINIMUM_FREE_BYTES)}; free some space, or {remedy}."
        )


def check_space_for_checkpoints(directory: Path, *, weight_bytes: int, lora: bool, limit: int | None) -> None:
    """Refuse a run whose checkpoints cannot fit on the disk.

    A checkpoint of full fine-tuning holds the weights and Adam's two moments; at least two exist at once, as the old
    one is deleted after the new one is complete.

    Args:
        directory: The run directory.
        weight_bytes: Size of the model's weights as they are saved; 0 where unknown.
        lora: Whether only an adapter is saved, which is small.
        limit: `save_total_limit`; `None` keeps all, of which two are counted.

    Raises:
        TrainingError: If there is too little space; it names what is needed and what is free.
    """
    if lora or not weight_bytes:
        return
    needed = 3 * weight_bytes * max(2, (limit or 1) + 1) + MINIMUM_FREE_BYTES
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise TrainingError(
            f"The checkpoints need about {megabytes(needed)} in {directory}, and {megabytes(free)} are free (weights "
            f"of {megabytes(weight_bytes)} with Adam's moments, {max(2, (limit or 1) + 1)} checkpoints at once). Free "
            "some space, lower save_total_limit, use LoRA, or choose another --output_dir."
        )


def megabytes(count: int) -> str:
    """Return a number of bytes for people.

    Args:
        count: Bytes.

    Returns:
        MiB below one GiB, rounded up.

    Example:
        >>> megabytes(3 * 2**30)
        '3.0 GiB'
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{math.ceil(count / 2**20)} MiB"
