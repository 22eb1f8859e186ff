"""The configuration of a run that is only planned, without TRL where its constructor would refuse nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dgpo.lab.train.assemble import build_config, config_values
from dgpo.lab.train.declared import classes_without_methods, declared_classes
from dgpo.lab.train.recipe import Recipe

# Of the fields that TRL's constructors look at: values that they take, given what `validate` has refused already.
_TAKEN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_generations"),
        lambda value: True,
    ),
    **dict.fromkeys(("num_generations_eval", "steps_per_generation", "report_to", "optim"), lambda value: True),
    **dict.fromkeys(("logging_steps", "save_steps"), lambda value: isinstance(value, int) and value >= 1),
    **dict.fromkeys(("gradient_checkpointing", "use_cpu"), lambda value: isinstance(value, bool)),
    **dict.fromkeys(("model_init_kwargs", "chat_template_kwargs"), lambda value: isinstance(value, dict | None)),
    "importance_sampling_level": lambda value: value == "token",
    "lr_scheduler_type": lambda value: value not in ("reduce_lr_on_plateau", "greedy"),
    "save_strategy": lambda value: value in ("no", "steps", "epoch"),
    "warmup_steps": lambda value: value >= 0,
    "bf16": lambda value: value is not None,  # see _bf16_works
}
_FILLED = ("output_dir", "disable_tqdm", "log_level_replica", "model_init_kwargs")  # by `config_values`


def planned_config(recipe: Recipe, path: Path) -> Any:
    """Return the configuration of a recipe for a plan.

    Args:
        recipe: A recipe that passed `validate.check_recipe` and `validate.check_device`.
        path: The run directory.

    Returns:
        The `DGPOConfig`; or its fields and what TRL derives from them for one process, where the recipe sets no field
        that a constructor of TRL could refuse.

    Raises:
        ConfigError: For a value that DGPO refuses.
        RecipeError: For a combination of values that TRL refuses.
    """
    classes = declared_classes()
    launched = any(name == "WORLD_SIZE" or name.startswith("ACCELERATE_") for name in os.environ)
    values = config_values(recipe, path)
    if classes is None or launched or not _bf16_works(recipe):
        return build_config(recipe, path)
    read = classes.read_at_construction | {"importance_sampling_level"}  # DGPO's constructor looks at this one
    for name, value in values.items():
        if name in read and name not in _FILLED and not (name in _TAKEN and _TAKEN[name](value)):
            return build_config(recipe, path)
    from dgpo.engines.trl.compat import SUPPORTED
    from dgpo.engines.trl.settings import DGPOSettings
    from dgpo.versions import check_version

    check_version("trl", SUPPORTED)
    config: Any = classes_without_methods(DGPOSettings, classes.trainer)(**values)
    config.check_settings()
    config.process_index, config.world_size = 0, 1
    config.steps_per_generation = config.steps_per_generation or config.gradient_accumulation_steps
    config.generation_batch_size = config.per_device_train_batch_size * config.steps_per_generation
    return config


def _bf16_works(recipe: Recipe) -> bool:
    """Return whether bfloat16, which is TRL's default, is off or there is a GPU for it."""
    if recipe["bf16"] is False or recipe["use_cpu"]:
        return True
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
