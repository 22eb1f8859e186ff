"""Which modules LoRA adapts: their names as PEFT reads them, held against the model's weights before it is loaded."""

import json
import re
from pathlib import Path
from typing import Any

from dgpo.errors import RecipeError
from dgpo.lab.train.recipe import Recipe
from dgpo.names import did_you_mean

_KEY = "lora_target_modules"
_PLAIN = re.compile(r"[\w.]+")
"""The name of a module; anything else is a pattern, or `all-linear`."""


def read_targets(given: Any) -> Any:
    """Return the targets as PEFT must get them.

    TRL hands on the only name of a list as a text, and PEFT takes a text for a pattern that must match a module's whole
    path: `[q_proj]` would match nothing.

    Args:
        given: What TRL makes of the field.

    Returns:
        A list of names, a pattern, or None.

    Example:
        >>> read_targets("q_proj"), read_targets("all-linear"), read_targets(["q_proj", "v_proj"])
        (['q_proj'], 'all-linear', ['q_proj', 'v_proj'])
    """
    return [given] if isinstance(given, str) and _PLAIN.fullmatch(given) else given


def check_targets(recipe: Recipe, model: str) -> None:
    """Refuse names of which the model has no module; PEFT passes over those in silence if it finds any other.

    Args:
        recipe: The recipe.
        model: Folder of the model; a hub id passes, as do patterns and models with experts, whose weights have other
            names on the disk.

    Raises:
        RecipeError: With the name, the nearest one and all there are.
    """
    given = recipe[_KEY]
    names = [name for name in given or () if _PLAIN.fullmatch(name)]
    if not recipe["use_peft"] or not names or len(names) < len(given) or not Path(model).is_dir():
        return
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    weights = _weights(model)
    if not weights or any("expert" in key for key in config):
        return
    modules = {path.rpartition(".")[0] for path in weights} | {"lm_head"}  # a tied head is not on the disk
    for name in names:
        if not any(f".{module}".endswith(f".{name}") for module in modules):
            known = sorted({module.rpartition(".")[2] for module in modules} - {""})
            raise RecipeError(
                f"{recipe.place(_KEY)}: {_KEY} names {name!r}, and {model} has no such module."
                f"{did_you_mean(name, known)} Its modules are: {', '.join(known)}; or write all-linear."
            )


def _weights(model: str) -> list[str]:
    """Names of the weights; empty if a file cannot be read, which loading it says better."""
    from safetensors import SafetensorError, safe_open

    names: list[str] = []
    try:
        for file in Path(model).glob("*.safetensors"):
            with safe_open(str(file), framework="np") as weights:
                names += weights.keys()
    except (OSError, SafetensorError):
        return []
    return names
