"""Packages that a recipe needs beyond the installed ones, named before the libraries look for them."""

import importlib.util
from collections.abc import Iterator

from dgpo.lab.train.recipe import Recipe
from dgpo.names import did_you_mean

_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "trackio": ("trackio",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
    "codecarbon": ("codecarbon",),
    "flyte": ("flytekit",),
    "dagshub": ("dagshub",),
    "azure_ml": ("azureml",),
}
"""Packages of which one must be installed for a value of `report_to`."""

_SWITCHES = {
    "use_vllm": (("vllm",), "vllm"),
    "use_liger_kernel": (("liger_kernel",), "liger-kernel"),
    "deepspeed": (("deepspeed",), "deepspeed"),
    "use_peft": (("peft",), "peft"),
}
"""Fields that need a package: modules of which one must be there, and what to install."""

_ATTENTION = {"flash_attention_2": ("flash_attn", "kernels"), "flash_attention_3": ("flash_attn_3", "kernels")}

_OPTIMIZERS = (
    (("bnb", "8bit", "paged", "lion", "ademamix"), "bitsandbytes"),
    (("galore",), "galore_torch"),
    (("apollo",), "apollo_torch"),
    (("lomo",), "lomo_optim"),
    (("schedule_free",), "schedulefree"),
    (("grokadamw",), "grokadamw"),
    (("apex",), "apex"),
    (("torch_4bit", "torch_8bit"), "torchao"),
)
"""Parts of an optimizer's name, and the package that has it; of several the last one holds."""


def missing_packages(recipe: Recipe) -> list[str]:
    """Return what the recipe names and no installed package provides.

    Args:
        recipe: A recipe whose values already fit their types.

    Returns:
        One sentence a problem, with what to install.
    """
    return [*_trackers(recipe), *_others(recipe)]


def _others(recipe: Recipe) -> Iterator[str]:
    for name, (modules, package) in _SWITCHES.items():
        if recipe[name] and not _installed(*modules):
            yield _missing(recipe, name, package, f"or leave {name} out")
    attention = recipe["attn_implementation"]
    if attention in _ATTENTION and not _installed(*_ATTENTION[attention]):
        yield _missing(recipe, "attn_implementation", "flash-attn", "or attn_implementation: sdpa")
    optimizer = str(recipe["optim"])
    packages = [package for parts, package in _OPTIMIZERS if any(part in optimizer for part in parts)]
    if packages and not _installed(packages[-1]):
        yield _missing(recipe, "optim", packages[-1].replace("_", "-"), "or optim: adamw_torch")


def _missing(recipe: Recipe, name: str, package: str, otherwise: str) -> str:
    return (
        f"{recipe.place(name)}: {name} is {recipe[name]}, which needs the package {package}, and it is not installed; "
        f"`pip install {package}`, {otherwise}"
    )


def _trackers(recipe: Recipe) -> Iterator[str]:
    given = recipe["report_to"] or []
    for name in [given] if isinstance(given, str) else given:
        if name in ("none", "all"):
            continue
        if name not in _TRACKERS:
            hint = did_you_mean(str(name), [*_TRACKERS, "none"])
            known = "" if hint else f" Known are: none, {', '.join(_TRACKERS)}."
            yield f"{recipe.place('report_to')}: report_to names {name!r}, which is no tracker.{hint}{known}"
        elif not _installed(*_TRACKERS[name]):
            package = _TRACKERS[name][0]
            yield (
                f"{recipe.place('report_to')}: report_to names {name}, and its package is not installed; "
                f"`pip install {package}`, or report_to: none"
            )


def _installed(*modules: str) -> bool:
    return any(importlib.util.find_spec(module) is not None for module in modules)
