"""The fields a recipe may hold, and the check that a value fits its field."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any

RECIPE_GROUP, MODEL_GROUP, DGPO_GROUP, CONFIG_GROUP = "recipe", "model", "dgpo", "trainer"


@dataclass(kw_only=True)
class RunOptions:
    """What `dgpo train` adds to the fields of `trl.ModelConfig` and `dgpo.DGPOConfig`."""

    task: str | None = field(
        default=None,
        metadata={"help": "Where prompts and answers come from: forks, reasoning_gym:<name>, a file, a hub data set."},
    )
    task_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the task, such as num_forks of forks."}
    )
    rewards: list[str] | None = field(
        default=None, metadata={"help": "Reward functions; by default the task's own. The first is the accuracy."}
    )
    eval_size: int | None = field(
        default=None, metadata={"help": "Held-out prompts; by default the task's own choice, mostly 256; 0 for none."}
    )
    eval_before_and_after: bool = field(
        default=True, metadata={"help": "Measure the held-out accuracy before the first and after the last step."}
    )
    eval_task: str | None = field(
        default=None, metadata={"help": "A task of `dgpo eval` to measure while training; see eval_every."}
    )
    eval_every: int = field(default=0, metadata={"help": "Steps between two measurements of eval_task; 0 for none."})
    eval_samples: int = field(
        default=8, metadata={"help": "Completions per problem of eval_task, the k of eval/avg@k and eval/pass@k."}
    )
    completions_every: int = field(
        default=1, metadata={"help": "Keep the completions of every n-th logged step; 0 keeps none."}
    )
    num_threads: int | None = field(
        default=None,
        metadata={"help": "Threads of torch on the CPU; by default one a core. Tiny models are fastest with 1."},
    )


# Fields of TRL's classes that a recipe cannot set, and what to do instead.
NOT_OFFERED = {
    "resume_from_checkpoint": "use `dgpo train --resume RUN_DIR`, which also checks that the checkpoint fits",
    "hub_token": "a recipe is copied into the run directory; set the environment variable HF_TOKEN instead",
    "do_train": "`dgpo train` always trains",
    "do_eval": "set eval_before_and_after, or eval_strategy for evaluations in between",
    "do_predict": "DGPO has no prediction step; set eval_before_and_after",
    "local_rank": "the launcher (torchrun, accelerate launch) sets it",
    "auto_find_batch_size": "it breaks groups of completions; lower per_device_train_batch_size instead",
    "log_completions": "completions are kept in the run directory; see completions_every",
    "use_transformers_paged": "deprecated by TRL; use use_transformers_continuous_batching",
    "vllm_importance_sampling_cap": "deprecated by TRL; use vllm_importance_sampling_clip_max",
    "parallelism_config": "TRL's GRPO trainer does not support it",
    **dict.fromkeys(
        ("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"),
        "quantized models are not supported: the divergence needs the true weights of the head; use LoRA in bf16",
    ),
    "lora_task_type": "it is always CAUSAL_LM here",
}


@dataclass(frozen=True)
class Field:
    """One field: its type, default, help, and which class it belongs to.

    Attributes:
        name: The key in the recipe.
        hint: The type annotation.
        default: The value when neither recipe nor command line names it.
        help: One or more sentences.
        group: `"recipe"`, `"model"`, `"dgpo"` or `"trainer"`.
        choices: The allowed values, or empty.
    """

    name: str
    hint: Any
    default: Any
    help: str
    group: str
    choices: tuple[str, ...] = ()


def fields_of(cls: type, group: str) -> dict[str, Field]:
    """Return the fields of a dataclass by name, without those of `NOT_OFFERED`.

    Args:
        cls: A dataclass.
        group: Which of the four groups its fields belong to.

    Returns:
        Fields in the order of their declaration.

    Example:
        >>> fields_of(RunOptions, "recipe")["completions_every"].default
        1
    """
    hints = typing.get_type_hints(cls)
    found = {}
    for item in dataclasses.fields(cls):
        if item.name in NOT_OFFERED or not item.init:
            continue
        default = item.default
        if default is dataclasses.MISSING:
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
        if isinstance(default, Enum):
            default = default.value
        found[item.name] = Field(
            name=item.name,
            hint=hints[item.name],
            default=default,
            help=str(item.metadata.get("help", "")),
            group=group,
            choices=tuple(item.metadata.get("choices", ())),
        )
    return found


@cache
def recipe_schema() -> dict[str, Field]:
    """Return every field a recipe may hold; imports TRL."""
    from trl import GRPOConfig, ModelConfig

    from dgpo import DGPOConfig
    from dgpo.engines.trl.config import SUPPORTED_LOSS_TYPES

    schema = {**fields_of(RunOptions, RECIPE_GROUP), **fields_of(ModelConfig, MODEL_GROUP)}
    config = fields_of(DGPOConfig, CONFIG_GROUP)
    inherited = {item.name for item in dataclasses.fields(GRPOConfig)}
    for name, item in config.items():
        schema[name] = item if name in inherited else dataclasses.replace(item, group=DGPO_GROUP)
    # TRL documents booleans for this one as well, and converts them.
    schema["scale_rewards"] = dataclasses.replace(schema["scale_rewards"], hint=str | bool)
    schema["loss_type"] = dataclasses.replace(schema["loss_type"], choices=SUPPORTED_LOSS_TYPES)
    return schema


def unknown_key(key: str, known: typing.Iterable[str]) -> str:
    """Return what to say about a key that no field has: the nearest name, or why the field is not offered.

    Args:
        key: The key that was given.
        known: The keys there are.

    Returns:
        A sentence for the user.

    Example:
        >>> unknown_key("learing_rate", ["learning_rate", "task"])
        "unknown key 'learing_rate'; did you mean 'learning_rate'?"
    """
    if key in NOT_OFFERED:
        return f"'{key}' cannot be set here: {NOT_OFFERED[key]}"
    names = set(known)
    near = [_NICKNAMES[key]] if _NICKNAMES.get(key) in names else get_close_matches(key, names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else "`dgpo train --help-all` lists every key"
    return f"unknown key '{key}'; {hint}"


def fit(value: Any, item: Field) -> Any:
    """Return `value` as the type of its field: `"1e-4"` becomes a float where a float is wanted.

    Args:
        value: What YAML gave: text, number, boolean, `None`, list or mapping.
        item: The field.

    Returns:
        The value, converted if that loses nothing.

    Raises:
        ValueError: If the value does not fit; the message says what is expected.

    Example:
        >>> fit("1e-4", Field("learning_rate", float, 1e-6, "", "trainer"))
        0.0001
    """
    fitted = _fit(value, item.hint)
    if fitted is _MISFIT:
        raise ValueError(f"{item.name} must be {describe(item.hint)}, got {_shown(value)}")
    choices = item.choices or _enum_choices(item.hint)
    if choices and isinstance(fitted, str) and fitted not in choices:
        near = get_close_matches(fitted, choices, n=1, cutoff=0.5) if len(choices) > _FEW else []
        hint = f"did you mean '{near[0]}'?" if near else f"it must be one of {', '.join(choices)}"
        raise ValueError(f"{item.name}: {fitted!r} is not possible; {hint}")
    return fitted


def describe(hint: Any) -> str:
    """Return a type annotation in words.

    Args:
        hint: An annotation such as `list[str] | None`.

    Returns:
        What a value must be.

    Example:
        >>> describe(float | None)
        'a number (or null)'
    """
    names = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        dict: "a mapping",
        list: "a list",
        type(None): "null",
    }
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        words = [describe(part) for part in arguments if not _is_enum(part) and part is not type(None)]
        return " or ".join(dict.fromkeys(words)) + (" (or null)" if type(None) in arguments else "")
    if origin is list and arguments:
        return "a list of numbers" if arguments[0] is float else "a list of names"
    if origin is typing.Literal:
        return " or ".join(repr(part) for part in arguments)
    return names.get(origin, getattr(hint, "__name__", str(hint)))


_MISFIT = object()
_FEW = 8
# What people type for a field whose name looks quite different.
_NICKNAMES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "group_size": "num_generations",
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "dataset": "task",
    "dataset_name": "task",
    "reward_funcs": "rewards",
    "steps": "max_steps",
    "epochs": "num_train_epochs",
    "torch_dtype": "dtype",
    "max_length": "max_completion_length",
}


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _enum_choices(hint: Any) -> tuple[str, ...]:
    for part in (hint, *typing.get_args(hint)):
        if _is_enum(part):
            return tuple(str(member.value) for member in part)
    return ()


def _fit(value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, arguments)
    if origin is typing.Literal:
        return value if any(value is part or value == part for part in arguments) else _MISFIT
    if hint in (list, dict) or origin in (list, dict):
        return _fit_container(value, origin or hint, arguments)
    if _is_enum(hint):
        return value if isinstance(value, str) else _MISFIT
    return _fit_scalar(value, hint)


def _fit_union(value: Any, parts: tuple[Any, ...]) -> Any:
    # A part that holds the value as it stands wins over one that would convert it: "auto" stays text in int | str.
    for part in parts:
        if isinstance(part, type) and type(value) is part:
            return value
    # Text is the widest type, so it comes last.
    for part in sorted(parts, key=lambda part: part is str):
        fitted = _fit(value, part)
        if fitted is not _MISFIT:
            return fitted
    return _MISFIT


def _fit_container(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if kind is dict:
        return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else _MISFIT
    if isinstance(value, dict) or value is None:
        return _MISFIT
    # One name stands for a list of one, as TRL allows ("all-linear").
    items = value if isinstance(value, list) else [value]
    fitted = [_fit(item, arguments[0]) for item in items] if arguments else items
    return _MISFIT if any(item is _MISFIT for item in fitted) else fitted


def _fit_scalar(value: Any, hint: Any) -> Any:
    if hint is type(None):
        return None if value is None else _MISFIT
    if hint is str:
        return value if isinstance(value, str) else _MISFIT
    if hint is bool:
        return _boolean(value)
    if hint in (int, float):
        return _number(value, hint)
    return _MISFIT


def _boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.lower(), _MISFIT) if isinstance(value, str) else _MISFIT


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _MISFIT
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _MISFIT
    if not math.isfinite(number):
        return _MISFIT
    if kind is int:
        return (value if isinstance(value, int) else int(number)) if number == int(number) else _MISFIT
    return value if isinstance(value, int) else number  # `save_steps: 50` stays 50


def _shown(value: Any) -> str:
    kind = {str: "text", bool: "a boolean", list: "a list", dict: "a mapping", type(None): "null"}.get(type(value))
    text = "null" if value is None else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if kind is None or value is None else f"{text} ({kind})"
