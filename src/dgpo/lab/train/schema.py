"""The fields a recipe may hold: those of `dgpo train`, `trl.ModelConfig` and `dgpo.DGPOConfig`."""

import dataclasses
import json
import textwrap
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from dgpo.lab.train.declared import classes_without_methods, declared_classes
from dgpo.lab.train.options import NICKNAMES, NOT_OFFERED, RunOptions
from dgpo.lab.train.values import describe, fit
from dgpo.names import did_you_mean

RECIPE_GROUP, MODEL_GROUP, DGPO_GROUP, CONFIG_GROUP = "recipe", "model", "dgpo", "trainer"


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

    def fit(self, value: Any) -> Any:
        """Return a value as the type of this field; see `values.fit`."""
        return fit(value, self.hint, name=self.name, choices=self.choices)


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
    fields = {}
    for item in dataclasses.fields(cls):
        if item.name in NOT_OFFERED or not item.init:
            continue
        default = item.default
        if default is dataclasses.MISSING:
            default = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
        if isinstance(default, Enum):
            default = default.value
        fields[item.name] = Field(
            name=item.name,
            hint=hints[item.name],
            default=default,
            help=str(item.metadata.get("help", "")),
            group=group,
            choices=tuple(item.metadata.get("choices", ())),
        )
    return fields


def config_fields(config: type, base: type) -> dict[str, Field]:
    """Return the fields of DGPO's configuration; those that TRL's base class lacks are in the group `"dgpo"`.

    Args:
        config: `DGPOConfig`: a dataclass whose own fields may come from other bases too.
        base: TRL's `GRPOConfig`.

    Returns:
        Fields in the order of their declaration.
    """
    inherited = {item.name for item in dataclasses.fields(base)}
    return {
        name: item if name in inherited else dataclasses.replace(item, group=DGPO_GROUP)
        for name, item in fields_of(config, CONFIG_GROUP).items()
    }


@cache
def recipe_schema() -> dict[str, Field]:
    """Return every field a recipe may hold; imports TRL."""
    from trl import GRPOConfig, ModelConfig

    from dgpo import DGPOConfig

    return _schema(ModelConfig, DGPOConfig, GRPOConfig)


@cache
def declared_schema() -> dict[str, Field]:
    """Return every field a recipe may hold, as TRL's source declares it; imports TRL only where that cannot be read."""
    from dgpo.engines.trl.settings import DGPOSettings

    classes = declared_classes()
    if classes is None:
        return recipe_schema()
    return _schema(classes.model, classes_without_methods(DGPOSettings, classes.trainer), classes.trainer)


def _schema(model: type, config: type, base: type) -> dict[str, Field]:
    from dgpo.engines.trl.settings import SUPPORTED_LOSS_TYPES

    schema = {
        **fields_of(RunOptions, RECIPE_GROUP),
        **fields_of(model, MODEL_GROUP),
        **config_fields(config, base),
    }
    # TRL documents booleans for this one as well, and converts them.
    # A text in place of a mapping is JSON to TRL and transformers, and a word that fails late where it is none.
    for name in [name for name in schema if name.endswith("_kwargs")]:
        schema[name] = dataclasses.replace(schema[name], hint=dict[str, Any] | None)
    schema["scale_rewards"] = dataclasses.replace(schema["scale_rewards"], hint=str | bool)
    schema["loss_type"] = dataclasses.replace(schema["loss_type"], choices=SUPPORTED_LOSS_TYPES)
    return schema


_LONGEST_KEY = 100


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """Return what to say about a key that no field has: the nearest name, or why the field is not offered.

    Args:
        key: The key that was given.
        valid: The keys there are.

    Returns:
        A sentence for the user.

    Example:
        >>> unknown_key("learing_rate", ["learning_rate", "task"])
        "unknown key 'learing_rate'. Did you mean 'learning_rate'?"
    """
    key = key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}..."
    if key in NOT_OFFERED:
        return f"'{key}' cannot be set here: {NOT_OFFERED[key]}"
    names = set(valid)
    nickname = NICKNAMES.get(key)
    near = did_you_mean(nickname if nickname in names else key, names)
    return f"unknown key '{key}'{f'.{near}' if near else '; `dgpo train --help-all` lists every key'}"


_HEADINGS = {
    RECIPE_GROUP: "Task, rewards, evaluation",
    MODEL_GROUP: "Model (trl.ModelConfig)",
    DGPO_GROUP: "DGPO (dgpo.DGPOConfig)",
    CONFIG_GROUP: "Trainer (trl.GRPOConfig, transformers.TrainingArguments)",
}


def describe_fields() -> str:
    """Return all fields of a recipe with type, default and help, class by class."""
    schema = declared_schema()
    parts = []
    for group, heading in _HEADINGS.items():
        parts.append(f"{heading}\n")
        for item in schema.values():
            if item.group == group:
                kind = " | ".join(item.choices) if item.choices else describe(item.hint)
                parts.append(f"  {item.name}: {kind}; default {json.dumps(item.default)}")
                text = item.help.replace("%%", "%")
                parts.append(textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))
        parts.append("")
    return "\n".join(parts).rstrip()
